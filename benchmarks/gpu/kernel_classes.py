"""Where a step's time goes: for each class of layers its measured time against the least that bytes and operations allow.

    python benchmarks/gpu/kernel_classes.py STEP.PRECISION COSTS.json ...       of head_to_head.py, as gpt2.bf16

A layer's bound is the larger of its bytes at the card's bandwidth (every storage that it reads or writes, once) and its
multiply-adds at the rate of the tensor cores. Times are of layers in their default forms, as the profiler measured them.
"""

import math
import sys
from collections import defaultdict
from pathlib import Path

from card_networks import import_case
from planc_steps import case_of

from planc.costs.store import read_costs
from planc.graph.footprint import footprints
from planc.importer.import_model import ImportedModel
from planc.kernels import DOMAIN

BANDWIDTH = 4.3e12
"""Bytes a second of a copy on the device, read and written (H200)."""

FLOPS = {"tf32": 0.5 * 790e12, "bf16": 790e12}
"""Of a large matrix product (H200, bf16); TF32's rate is half of it."""

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def operations(imported: ImportedModel, op: int) -> float:
    """Floating-point operations of products; every other operator is bound by its bytes."""
    graph = imported.graph
    node = graph.ops[op]
    shapes = [graph.tensors[t].shape for t in node.inputs if t >= 0]
    out = [graph.tensors[t].shape for t in node.outputs if t >= 0]
    name = node.op_type.rpartition("_")[0] if node.domain == DOMAIN else node.op_type
    if name in ("MatMul", "Gemm"):
        a, b = (math.prod(s) for s in shapes[:2])
        return 2 * math.sqrt(a * b * math.prod(out[0]) / max(1, math.prod(out[0][:-2])))
    if name.startswith(("Convolution", "Conv")):
        return 2 * _convolution(name, shapes, out)
    if name in ("Attention", "AttentionGradient"):
        return (4 if name == "Attention" else 10) * _scores(shapes, name == "AttentionGradient") / 2
    if name.startswith("LinearCrossEntropy"):
        return 6 * math.prod(shapes[0]) * shapes[1][0]
    return 0.0


def _convolution(name: str, shapes: list[tuple[int, ...]], out: list[tuple[int, ...]]) -> float:
    """Multiply-adds: each weight once for every place of the result, whose channels are the weight's first axis."""
    if name.endswith("WeightGradient"):
        weight, result = out[0], shapes[1]
    else:
        weight, result = shapes[1], shapes[0] if name.endswith("InputGradient") else out[0]
    return math.prod(weight) * math.prod(result) / weight[0]


def _scores(shapes: list[tuple[int, ...]], backward: bool) -> float:
    """Multiply-adds of one product of queries and keys; causal masks halve what has to be computed."""
    q, k = (shapes[1], shapes[2]) if backward else (shapes[0], shapes[1])
    return float(math.prod(q) * max(k[1], k[2]) if len(q) == 4 else 0)


def classes(imported: ImportedModel, costs: Path, precision: str) -> list[tuple[str, int, float, float, float]]:
    """(class, layers, ms, ms by bytes, ms by operations), the slowest class first."""
    graph, table = imported.graph, read_costs(costs)
    table.check_model(graph.content_hash, len(graph.layers))
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0, 0.0])
    for index, (layer, touched) in enumerate(zip(graph.layers, footprints(graph), strict=True)):
        storages = {*touched.reads, *touched.writes}
        moved = sum(graph.storages[s].nbytes for s in storages) / BANDWIDTH * 1e3
        work = sum(operations(imported, op) for op in range(layer.start, layer.stop)) / FLOPS[precision] * 1e3
        row = sums[f"{layer.kind} {layer.phase}"]
        row[0] += 1
        row[1] += table.layer(index).compute_ns / 1e6
        row[2], row[3] = row[2] + moved, row[3] + work
    found = [(name, int(n), ms, by_bytes, by_work) for name, (n, ms, by_bytes, by_work) in sums.items()]
    return sorted(found, key=lambda row: -row[2])


def main() -> None:
    """A table in Markdown for each step."""
    for name, costs in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        step, precision = name.rsplit(".", 1)
        rows = classes(import_case(case_of(step, precision)), Path(costs), precision)
        print(f"\n{name}: {sum(r[2] for r in rows):.2f} ms\n\n| class | layers | ms | bytes, ms | operations, ms |")
        print("|---|---|---|---|---|")
        for kind, count, ms, moved, work in rows:
            if ms >= 0.01:
                print(f"| {kind} | {count} | {ms:.2f} | {moved:.2f} | {work:.2f} |")


if __name__ == "__main__":
    main()
