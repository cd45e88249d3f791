"""layrub: layers share device buffers, their data lives on the host between the passes (Jin et al., 2018).

Jin, Liu, Jiang, Ma, Shi, He and Zhao, Layer-Centric Memory Reuse and Data Migration for Extreme-Scale Deep Learning on
Many-Core Architectures, ACM TACO 15(3), 2018. *Inter-layer* reuse: when a layer's output has been computed, it is
copied to the host while later layers run, and another layer takes over its buffer; the backward pass fetches it ahead
of its layer. *Intra-layer* reuse: gradients are written into the space of the layer's own data. Both together.

In a schedule, inter-layer reuse is that every saved output (and the batch, whose host copy exists anyway) leaves, its
copy out beginning as soon as it is there, and must be gone one layer after its last reader (the buffer then serves
another layer); it is fetched beside the layer before the one that needs it, into the second buffer. Intra-layer reuse
is what packing does with instances that follow each other. Layrub's own buffers, equal in size, are given beside it.
"""

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.allocators import shared_buffer_bytes
from planc_solvers.baselines.selection import first_fitting, with_allocator
from planc_solvers.baselines.training_step import backward_start
from planc_solvers.baselines.transfers import ahead, engine_order, feature_maps, gaps_across, layer_positions, travel


class Layrub:
    """Migrate every saved output, without waiting for its copy before the layer after the next."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The static schedule, its copies awaited a layer later where that fits.

        Raises InfeasibleBudgetError when even waiting at once exceeds the budget.
        """
        answer = first_fitting("layrub", problem, (_migrating(problem, delay) for delay in (1, 0)))
        return with_allocator(answer, shared_buffer_bytes(problem, answer.schedule))


def _migrating(problem: Problem, delay: int) -> Schedule:
    """Copies out end `delay` layers after the last reader of the forward pass."""
    start, steps = backward_start(problem), tuple(range(len(problem.tasks)))
    layers = layer_positions(problem, steps, start)
    copies: list[Transfer] = []
    for gap in gaps_across(problem, steps, feature_maps(problem, start), start):
        stop = gap.last + 1 + delay
        fetch = max(ahead(layers, gap.need), stop)
        if fetch < gap.need:
            copies += travel(problem, gap, gap.made, stop, fetch)
    return Schedule(steps, engine_order(copies))
