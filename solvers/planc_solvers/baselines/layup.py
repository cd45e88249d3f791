"""layup: for each type of layer, transfer or recompute what it saves, whichever measures cheaper (Jiang et al., 2019).

Jiang, Wu, Jin and Liao, Layup: Layer-Adaptive and Multi-Type Intermediate-Oriented Memory Optimization for GPU-Based
CNNs, ACM TACO 16(4), 2019. The extra forward computation of a layer that saves something is set against the transfer of
what it makes; of the two directions, engines of their own, the longer one counts. The mean of these ratios over the
layers of a type decides, as the paper gives its own. What is recomputed is made again when it is first read and stays
until its last reader; what is transferred leaves after its last reader of the forward pass and is fetched one layer
ahead. What cannot be recomputed (random layers, updated state) is transferred.

The paper found transfers cheaper for convolutions and fully connected layers. Where measurements of another card say
otherwise, nothing is left to recompute from; if that does not fit, these types are transferred as in the paper. If that
does not fit either, so are layers that join several maps, such as residual sums: in the paper's networks they are a type
of their own, and to recompute one takes the sums of all blocks before.

Layup's other half, convolution workspaces and library handles shared between layers, is what planc's scratch does for
every policy.
"""

from collections import defaultdict
from statistics import fmean

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.replay import droppable, replayed
from planc_solvers.baselines.selection import first_fitting
from planc_solvers.baselines.training_step import PRODUCTS, backward_start, require_kinds, saved_values
from planc_solvers.baselines.transfers import ahead, engine_order, feature_maps, gaps_across, layer_positions, travel


class Layup:
    """One decision for each kind of layer, from the problem's durations."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The static schedule. Raises InfeasibleBudgetError when it exceeds the budget, PolicyScopeError without layer
        kinds."""
        require_kinds(problem, "layup")
        measured = recomputed_kinds(problem)
        decisions = dict.fromkeys(((measured, True), (measured - PRODUCTS, True), (measured - PRODUCTS, False)))
        return first_fitting("layup", problem, (_schedule(problem, *decision) for decision in decisions))


def recomputed_kinds(problem: Problem) -> frozenset[str]:
    """The kinds of layers whose forward computation takes, on average, less time than the transfer of what they make."""
    start = backward_start(problem)
    makers = {problem.producer[saved.value] for saved in saved_values(problem, start)}
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for task in sorted(maker for maker in makers if maker is not None):
        info = problem.tasks[task]
        made = [problem.values[v] for v in info.writes if problem.producer[v] == task]
        transfer_ns = max(sum(v.copy_out_ns for v in made), sum(v.copy_in_ns for v in made), 1)
        ratios[info.kind].append(info.duration_ns / transfer_ns)
    return frozenset(kind for kind, found in ratios.items() if fmean(found) < 1)


def _schedule(problem: Problem, kinds: frozenset[str], joins: bool) -> Schedule:
    """Layers of the `kinds` are recomputed, those that join maps only with `joins`; the others are transferred."""
    start = backward_start(problem)
    again = [t for t in range(start) if problem.tasks[t].kind in kinds and (joins or not _joins(problem, t))]
    cheap = {v for t in again for v in problem.tasks[t].writes}
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


def _joins(problem: Problem, task: int) -> bool:
    return sum(problem.producer[value] is not None for value in problem.tasks[task].reads) > 1
