"""How many Concats of the zoo's training graphs may be made by placement, at batch 1 and at the batches of `reuse.py`.

    python benchmarks/concats.py [MODEL ...]

`rows` are Concats whose inputs are contiguous pieces of the output (all dimensions before the axis are 1), `may be placed`
those of them that qualify in every other way (alignment, computed inputs, see `planc.graph.concat`), and `inputs die`
those of these whose inputs nobody reads afterwards, because such reads were moved into the output: what lowering may
place. `MB` are the outputs of the last, and those of all operators. The peaks are liveness peaks without scratch, before
and after reads were moved.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

import onnx
from reuse import SIZES

from planc.graph.concat import pieces_of
from planc.graph.footprint import footprints
from planc.graph.graph import Graph
from planc.graph.liveness import live_bytes
from planc.importer.concat_reads import ReadsInside
from planc.importer.import_model import import_model
from planc.training import Optimizer, differentiate
from planc.zoo import build_forward


def peak(graph: Graph) -> int:
    """The liveness peak, bytes."""
    return max(live_bytes(graph, footprints(graph)))


def copied(model: onnx.ModelProto) -> Graph:
    """The graph in which reads of a Concat's inputs stay where they are."""
    moved = ReadsInside.moved
    ReadsInside.moved = lambda self: self.nodes  # type: ignore[method-assign]
    try:
        return import_model(model).graph
    finally:
        ReadsInside.moved = moved  # type: ignore[method-assign]


def in_rows(graph: Graph, op: int) -> bool:
    """Whether the inputs of a Concat are contiguous in its output."""
    first, whole = (graph.tensors[t].shape for t in (graph.ops[op].inputs[0], graph.ops[op].outputs[0]))
    axis = next((a for a, (part, size) in enumerate(zip(first, whole, strict=True)) if part != size), 0)
    return math.prod(whole[:axis]) == 1


def row(name: str, batch: int) -> str:
    """One line of the table."""
    forward = build_forward(name, replace(SIZES[name], batch=batch)).model
    model = differentiate(forward, loss="cross-entropy", optimizer=Optimizer("momentum"))
    graph = import_model(model).graph
    concats = [i for i, op in enumerate(graph.ops) if op.op_type == "Concat"]
    pieces = {op: pieces_of(graph, op) for op in concats}
    able = [op for op in concats if pieces[op] is not None]
    dying = [op for op in able if all(graph.last_read[storage] == op for storage, _ in pieces[op] or ())]
    counts = f"{len(concats)} | {sum(in_rows(graph, op) for op in concats)} | {len(able)} | {len(dying)}"
    sizes = f"{_megabytes(graph, dying)} / {_megabytes(graph, range(len(graph.ops)))}"
    return f"| {name} | {batch} | {counts} | {sizes} | {peak(copied(model)):,} → {peak(graph):,} |"


def _megabytes(graph: Graph, ops: Sequence[int]) -> str:
    return f"{sum(graph.tensors[t].nbytes for op in ops for t in graph.ops[op].outputs if t >= 0) / 1e6:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(SIZES))
    print("| model | batch | Concats | in rows | may be placed | inputs die | MB | liveness peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name in parser.parse_args().models:
        for batch in dict.fromkeys((1, SIZES[name].batch)):
            print(row(name, batch), flush=True)


if __name__ == "__main__":
    main()
