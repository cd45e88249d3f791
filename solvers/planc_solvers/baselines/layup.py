"""layup: for each type of layer, transfer or recompute what it saves, whichever measures cheaper (Jiang et al., 2019).

Jiang, Wu, Jin and Liao, Layup: Layer-Adaptive and Multi-Type Intermediate-Oriented Memory Optimization for GPU-Based
CNNs, ACM TACO 16(4), 2019. The extra forward computation of all layers of a type is compared with the transfers of what
they save; of the two directions, engines of their own, the longer one counts. What is recomputed is made again when it
is first read and stays until its last reader; what is transferred leaves after its last reader of the forward pass
and is fetched one layer ahead. What cannot be recomputed (random layers, updated state) is transferred.

Layup's other half, convolution workspaces and library handles shared between layers, is what planc's scratch does for
every policy.
"""

from collections import defaultdict

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import droppable, replayed
from planc_solvers.baselines.selection import first_fitting
from planc_solvers.baselines.training_step import backward_start, require_kinds, saved_values
from planc_solvers.baselines.transfers import ahead, engine_order, feature_maps, gaps_across, layer_positions, travel


class Layup:
    """One decision for each kind of layer, from the problem's durations."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The static schedule. Raises InfeasibleBudgetError when it exceeds the budget, PolicyScopeError without layer
        kinds."""
        require_kinds(problem, "layup")
        return first_fitting("layup", problem, [_schedule(problem)])


def recomputed_kinds(problem: Problem) -> frozenset[str]:
    """The kinds of layers whose forward computation takes less time than the transfer of what they save."""
    compute: defaultdict[str, int] = defaultdict(int)
    transfer: defaultdict[str, int] = defaultdict(int)
    counted: set[int] = set()
    for saved in saved_values(problem, backward_start(problem)):
        producer, value = problem.producer[saved.value], problem.values[saved.value]
        if producer is None:
            continue
        kind = problem.tasks[producer].kind
        transfer[kind] += max(value.copy_out_ns, value.copy_in_ns)
        if producer not in counted:
            compute[kind] += problem.tasks[producer].duration_ns
        counted.add(producer)
    return frozenset(kind for kind in compute if compute[kind] < transfer[kind])


def _schedule(problem: Problem) -> Schedule:
    start, kinds = backward_start(problem), recomputed_kinds(problem)
    cheap = {v for t in range(start) if problem.tasks[t].kind in kinds for v in problem.tasks[t].writes}
    dropped = droppable(problem, cheap, start)
    steps = replayed(problem, dropped, start)
    kept = {v for v, p in enumerate(problem.producer) if p is not None and p < start} - dropped
    kept.update(v for v in feature_maps(problem, start) if v not in dropped)
    layers = layer_positions(problem, steps, start)
    copies: list[Transfer] = []
    for gap in gaps_across(problem, steps, [v for v in kept if problem.values[v].swappable], start):
        fetch = max(ahead(layers, gap.need), gap.last + 1)
        if fetch < gap.need:
            copies += travel(problem, gap, max(gap.last, gap.made), gap.last + 1, fetch)
    return Schedule(steps, engine_order(copies))
