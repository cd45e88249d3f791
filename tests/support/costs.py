"""Cost tables without measuring."""

from planc.costs.table import EXCHANGED, CopyPoint, CostTable, DeviceInfo, ExchangeLink, ExchangePoint, LayerCost, Link
from planc.graph.footprint import padded_bytes
from planc.graph.graph import Graph
from planc.runtime.onednn.version import version_for


def _exchange(ranks: int) -> ExchangeLink:
    points = tuple(ExchangePoint(size=size, ns=1000 + size) for size in (64, 1 << 20, 1 << 30))
    return ExchangeLink(ranks=ranks, points=points, name="made up", compute_exchange_ppm=100_000)


def made_up_costs(graph: Graph, scratch: int = 2 << 20, bandwidth: int = 10**9) -> CostTable:
    """Every layer takes 1 µs plus the time of its bytes at 4 GB/s; copies take 1 µs plus bytes at `bandwidth` B/s."""
    layers = []
    for index, layer in enumerate(graph.layers):
        if graph.is_exchange(index):
            layers.append(EXCHANGED)
            continue
        touched = {s for op in range(layer.start, layer.stop) for s in (*graph.op_reads[op], *graph.op_writes[op])}
        layers.append(
            LayerCost(compute_ns=1000 + sum(padded_bytes(graph, s) for s in touched) // 4, scratch_bytes=scratch)
        )
    version = version_for(graph)
    points = tuple(
        CopyPoint(size=size, out_ns=1000 + size * 10**9 // bandwidth, in_ns=1000 + size * 10**9 // bandwidth)
        for size in (64, 1 << 20, 1 << 30)
    )
    return CostTable(
        model_hash=graph.content_hash,
        device=DeviceInfo(
            name="made up", kind="cpu", memory_bytes=1 << 30, versions={"planc_kernels": version} if version else {}
        ),
        unique=tuple(layers),
        layers=tuple(range(len(layers))),
        link=Link(points=points),
        exchange=_exchange(graph.ranks) if graph.ranks > 1 else None,
    )
