"""What the segments of a plan execute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planc.graph.graph import Graph
from planc.plan.plan import Run
from planc.plan.residency_index import ResidencyIndex


@dataclass(frozen=True, slots=True)
class Executed:
    """The runs [first, end) of one segment: their operators, the first of which executes at `slot`, and positions among
    them of Concats with nothing to do."""

    first: int
    end: int
    ops: tuple[int, ...]
    slot: int
    placed: frozenset[int]

    @property
    def empty(self) -> bool:
        """Whether nothing is left to run, so that there is no session and nothing is launched."""
        return len(self.placed) == len(self.ops)


def executed(
    graph: Graph, runs: Sequence[Run], segments: Sequence[tuple[int, int]], residencies: ResidencyIndex
) -> Iterator[Executed]:
    """Segment by segment, those of a plan with such residencies."""
    slot = 0
    for first, end in segments:
        layers = [graph.layers[run.layer] for run in runs[first:end]]
        ops = tuple(op for layer in layers for op in range(layer.start, layer.stop))
        yield Executed(first, end, ops, slot, residencies.placed(graph, ops, slot))
        slot += len(ops)
