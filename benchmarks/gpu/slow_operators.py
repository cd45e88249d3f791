"""Which operators make the slowest layers slow: each operator of them alone, beside the one-pass floor of its bytes.

PYTHONPATH=SITE python3 benchmarks/gpu/slow_operators.py CASE [COUNT]
"""

import sys

from card_networks import build

from planc.costs.catalogue import operator_demand
from planc.importer.submodel import sub_model
from planc.profiling.cuda import CudaMeter

BANDWIDTH = 3000
"""Bytes per ns: a device-to-device copy on an H100, counting reads and writes."""


def main() -> None:
    """Times every operator of the COUNT slowest distinct layers."""
    imported = build(sys.argv[1])
    graph, meter = imported.graph, CudaMeter()
    models = {}
    for layer in graph.layers:
        model = sub_model(imported, range(layer.start, layer.stop))
        models.setdefault(model.signature, (layer, model))
    timed = sorted(
        ((meter.layer(imported, model).compute_ns, layer) for layer, model in models.values()), key=lambda x: -x[0]
    )
    for total, layer in timed[: int(sys.argv[2]) if len(sys.argv) > 2 else 10]:
        print(f"{layer.title}: {total / 1e3:.0f} us")
        for index in range(layer.start, layer.stop):
            op = graph.ops[index]
            spent = meter.layer(imported, sub_model(imported, [index])).compute_ns
            floor = operator_demand(graph, op).moved_bytes / BANDWIDTH
            shapes = " ".join(str(list(graph.tensors[t].shape)) for t in op.inputs[:2] if t >= 0)
            if spent > 20_000:
                print(f"  {op.op_type:<16}{spent / 1e3:9.0f} us {spent / max(floor, 1):7.1f} x floor  {shapes}")
    meter.close()


if __name__ == "__main__":
    main()
