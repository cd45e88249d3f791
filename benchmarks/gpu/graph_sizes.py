"""What planc's graphs of the compared steps hold, without a card: operators, layers, live and touched bytes.

    python benchmarks/gpu/graph_sizes.py STEP.PRECISION ...       of head_to_head.py, as gpt2.bf16

An operator is a kernel or a few; it touches every storage that it reads or writes once.
"""

import sys

from card_networks import import_case
from planc_steps import case_of

from planc.graph.footprint import footprints
from planc.graph.liveness import live_bytes

MIB, GIB = 1 << 20, 1 << 30


def main() -> None:
    """A line for each step."""
    print("| step | operators | layers | peak, MiB | touched, GiB |\n|---|---:|---:|---:|---:|")
    for name in sys.argv[1:]:
        graph = import_case(case_of(*name.split("."))).graph
        touched = sum(
            graph.storages[s].nbytes
            for reads, writes in zip(graph.op_reads, graph.op_writes, strict=True)
            for s in {*reads, *writes}
        )
        peak = max(live_bytes(graph, footprints(graph)))
        print(
            f"| {name} | {len(graph.ops):,} | {len(graph.layers):,} | {peak // MIB:,} | {touched / GIB:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
