"""vdnn-all, vdnn-conv, vdnn-dyn: feature maps leave in the forward pass and come back one layer early (Rhu et al.,
2016).

Rhu, Gimelshein, Clemons, Zulfiqar and Keckler, vDNN: Virtualized Deep Neural Networks for Scalable, Memory-Efficient
Neural Network Design, MICRO 2016. A layer's input feature maps are copied out beside the last layer of the forward pass
that reads them, which waits for the copy at its end; they are fetched beside the layer of the backward pass before the
one that needs them. Parameters and their state stay. Where the paper is silent we take the better reading: batch
inputs, whose host copy exists anyway, are dropped and fetched; layers that save an output instead of their input
(activations) have that offloaded; a parameter's update is no layer, so a prefetch starts no later for it.
"""

from collections.abc import Callable, Iterator

from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.allocators import pool_bytes
from planc_solvers.baselines.selection import Need, first_fitting, too_small, with_allocator
from planc_solvers.baselines.training_step import CONVOLUTIONS, backward_start, require_kinds
from planc_solvers.baselines.transfers import ahead, engine_order, feature_maps, gaps_across, layer_positions, travel


class VdnnAll:
    """Offload the feature maps of every layer."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The static schedule. Raises InfeasibleBudgetError when it exceeds the budget."""
        return _pooled(problem, first_fitting("vdnn-all", problem, [offloading(problem, lambda _: True)]))


class VdnnConv:
    """Offload the inputs of convolutions only."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """The static schedule. Raises InfeasibleBudgetError when it exceeds the budget, PolicyScopeError without layer
        kinds."""
        require_kinds(problem, "vdnn-conv")
        return _pooled(problem, first_fitting("vdnn-conv", problem, [_of_convolutions(problem)]))


class VdnnDyn:
    """The first that fits of six configurations, from none offloaded to all with the leanest algorithms.

    It checks that offloading everything with the leanest algorithms can be trained, then takes the first that fits of:
    nothing, convolutions, everything offloaded, each with the fastest algorithms; then convolutions and everything with
    algorithms downgraded layer by layer, each to the next that needs less workspace where the budget is exceeded; then
    the configuration that was checked. A task's forms are its algorithms.
    """

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when not even the leanest configuration fits, PolicyScopeError without layer
        kinds."""
        require_kinds(problem, "vdnn-dyn")
        leanest = _with_choices(problem, offloading(problem, lambda _: True), _leanest)
        need = Need.of(problem, leanest)
        if not need.fits(problem):
            raise too_small("vdnn-dyn", problem, need)
        return _pooled(problem, first_fitting("vdnn-dyn", problem, _configurations(problem, leanest)))


def _configurations(problem: Problem, leanest: Schedule) -> Iterator[Schedule]:
    nothing = Schedule(tuple(range(len(problem.tasks))))
    some, every = _of_convolutions(problem), offloading(problem, lambda _: True)
    for schedule in (nothing, some, every):
        yield _with_choices(problem, schedule, _fastest)
    for schedule in (some, every):
        yield _downgraded(problem, _with_choices(problem, schedule, _fastest))
    yield leanest


def offloading(problem: Problem, chosen: Callable[[int], bool]) -> Schedule:
    """The given order with `chosen` saved values offloaded and prefetched by vDNN's rule."""
    start, steps = backward_start(problem), tuple(range(len(problem.tasks)))
    values = filter(chosen, feature_maps(problem, start))
    layers = layer_positions(problem, steps, start)
    copies: list[Transfer] = []
    for gap in gaps_across(problem, steps, values, start):
        if gap.need > gap.last + 1:
            fetch = max(ahead(layers, gap.need), gap.last + 1)
            copies += travel(problem, gap, max(gap.last, gap.made), gap.last + 1, fetch)
    return Schedule(steps, engine_order(copies))


def _of_convolutions(problem: Problem) -> Schedule:
    """Offload what a convolution of the forward pass reads."""
    start = backward_start(problem)
    inputs = {
        v for info in problem.tasks[:start] if info.kind in CONVOLUTIONS and info.phase != "update" for v in info.reads
    }
    return offloading(problem, inputs.__contains__)


def _fastest(problem: Problem, task: int) -> int:
    forms = problem.tasks[task].forms
    return min(range(len(forms)), key=lambda k: (forms[k].duration_ns, forms[k].working_bytes))


def _leanest(problem: Problem, task: int) -> int:
    forms = problem.tasks[task].forms
    return min(range(len(forms)), key=lambda k: (forms[k].working_bytes, forms[k].duration_ns))


def _with_choices(problem: Problem, schedule: Schedule, choose: Callable[[Problem, int], int]) -> Schedule:
    choices = tuple(choose(problem, task) for task in schedule.steps)
    return Schedule(schedule.steps, schedule.copies, schedule.host_start, choices)


def _downgraded(problem: Problem, schedule: Schedule) -> Schedule:
    """Where a layer exceeds the budget, its form becomes the fastest that fits, else the leanest."""
    choices, profile = list(schedule.choices), memory_profile(problem, schedule)
    for position, task in enumerate(schedule.steps):
        if profile[position] <= problem.budget_bytes:
            continue
        forms = problem.tasks[task].forms
        room = problem.budget_bytes - (profile[position] - forms[choices[position]].working_bytes)
        fitting = [k for k in range(len(forms)) if forms[k].working_bytes <= room]
        choices[position] = min(fitting, key=lambda k: forms[k].duration_ns, default=_leanest(problem, task))
    return Schedule(schedule.steps, schedule.copies, schedule.host_start, tuple(choices))


def _pooled(problem: Problem, answer: Candidate) -> Candidate:
    return with_allocator(answer, pool_bytes(problem, answer.schedule))
