"""What the segments of a plan execute: parts of one session each, of which a segment has more than one where it draws
random numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from planc.graph.graph import Graph
from planc.kernels.exchange import is_exchange
from planc.plan.plan import Run
from planc.plan.residency_index import ResidencyIndex


@dataclass(frozen=True, slots=True)
class Executed:
    """A part of segment `segment`, which has the runs [first, end): its operators, the first of which executes at `slot`,
    and positions among them with nothing to do: Concats of what lies in its place, exchanges.

    An operator that draws random numbers is a part of its own: its generator lives in its session, which therefore is
    nobody else's, and can be wound to where it was without running anything else.
    """

    segment: int
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
    """Part by part, those of a plan with such residencies; every segment has at least one."""
    slot = 0
    for index, (first, end) in enumerate(segments):
        layers = [graph.layers[run.layer] for run in runs[first:end]]
        for ops in _parts(graph, [op for layer in layers for op in range(layer.start, layer.stop)]):
            exchanged = {at for at, op in enumerate(ops) if is_exchange(graph.ops[op].op_type, graph.ops[op].domain)}
            yield Executed(index, first, end, ops, slot, residencies.placed(graph, ops, slot) | exchanged)
            slot += len(ops)


def _parts(graph: Graph, ops: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The operators with every random one alone."""
    for _, part in groupby(enumerate(ops), lambda item: item[0] if graph.ops[item[1]].random else -1):
        yield tuple(op for _, op in part)
