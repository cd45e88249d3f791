"""A schedule on its way to addresses: its variants with shorter copies, the ways to lower it, and packings of these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planc.clock import WALL, StoppableClock
from planc.graph.graph import Graph
from planc.lowering.lower import Lowering
from planc.lowering.slack import CLOSE_PPM, MARGINS, slackened
from planc.packing.buffers import Packing
from planc.planning.build import PlanningProblem
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.solver import Solution


@dataclass(frozen=True)
class Trial:
    """A solution and a packing of what it keeps."""

    solution: Solution
    lowering: Lowering
    packing: Packing
    budget: int = 0
    """Bytes within which the solution was looked for."""

    def packed(self, capacity: int, limit_s: float, clock: StoppableClock = WALL) -> "Trial":
        """The same, its packing improved on until it fits `capacity` or the time is over."""
        return replace(self, packing=self.lowering.pack(capacity, limit_s, self.packing, clock))


def variants(problem: Problem, solution: Solution, most_ppm: int = CLOSE_PPM) -> Iterator[Solution]:
    """The solution, then the same with shorter copies, the leanest last, slower by at most `most_ppm` parts per million."""
    yield solution
    yield from _slacker(problem, solution, most_ppm, MARGINS)


def leanest(problem: Problem, solution: Solution, most_ppm: int = CLOSE_PPM) -> Solution:
    """The last of the variants, made without the others."""
    return next(_slacker(problem, solution, most_ppm, MARGINS[::-1]), solution)


def leanest_first(problem: Problem, solution: Solution) -> Iterator[Solution]:
    """The variants, the solution itself last."""
    yield from _slacker(problem, solution, CLOSE_PPM, MARGINS[::-1])
    yield solution


def _slacker(problem: Problem, solution: Solution, most_ppm: int, margins: Sequence[int]) -> Iterator[Solution]:
    for schedule, timeline, found in slackened(problem, solution.schedule, solution.timeline, most_ppm, margins):
        peak = max(memory_profile(problem, schedule, found))
        yield replace(solution, schedule=schedule, timeline=timeline, peak_bytes=peak)


def lowerings(graph: Graph, planning: PlanningProblem, solution: Solution) -> Iterator[Lowering]:
    """The solution with Concats by placement where it has some, and without."""
    lowering = Lowering.of(graph, planning, solution.schedule)
    yield lowering
    if lowering.has_inside:
        yield Lowering.of(graph, planning, solution.schedule, inside=False)
