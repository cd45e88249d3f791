"""The variables of the coarse model, each with its meaning.

P_vk    part of value v on the device at critical task k                          `present[v, k]`
R_tk    part of task t recomputed in stage k                                      `recomputed[t, k]`
I_vk    part of v copied in during stage k                                        `copied_in[v, k]`
O_vk    part of v copied out during stage k                                       `copied_out[v, k]`
ρ_v     part of state or constant v on the device at both ends of the step        `resident[v]`
F_kf    part of critical task k's first execution that runs in its form f         `forms[k, f]`
"""

from dataclasses import dataclass, field

from planc.problem.problem import Origin
from planc_solvers.bounds.linear_model import LinearModel
from planc_solvers.bounds.stages import Stages

Numbers = dict[tuple[int, int], int]
"""Variables by (value or task, stage)."""


@dataclass(frozen=True, slots=True)
class Variables:
    """Where each variable stands in the model; what has no number is 0."""

    present: Numbers = field(default_factory=dict)
    recomputed: Numbers = field(default_factory=dict)
    copied_in: Numbers = field(default_factory=dict)
    copied_out: Numbers = field(default_factory=dict)
    resident: dict[int, int] = field(default_factory=dict)
    forms: Numbers = field(default_factory=dict)
    """By (index of the critical task, form)."""
    fixed: set[tuple[int, int]] = field(default_factory=set)
    """Of `present` those that are 1 anyway: the critical task accesses the value, or it never leaves the device."""


def variables_of(stages: Stages, model: LinearModel) -> Variables:
    """Add the variables of values and recomputations to the model."""
    x = Variables()
    for value in range(len(stages.problem.values)):
        _of_value(stages, model, x, value)
    for task, info in enumerate(stages.problem.tasks):
        if info.recomputable:
            for k in range(stages.of_task[task] + 1, stages.last_repeat[task] + 1):
                x.recomputed[task, k] = model.variable(0.0, 1.0, integer=True)
    return x


def _of_value(stages: Stages, model: LinearModel, x: Variables, value: int) -> None:
    """Variables from the value's birth to its horizon; none for a value that lives in one stage only."""
    info, birth, horizon = stages.problem.values[value], stages.birth[value], stages.horizon[value]
    computed, carried = info.origin is Origin.COMPUTED, info.origin in (Origin.STATE, Origin.CONSTANT)
    if computed and birth == horizon:
        return
    pinned = carried and not info.swappable
    accessed = [k for k, task in enumerate(stages.critical) if value in stages.problem.accesses[task]]
    for k in range(birth, min(horizon, stages.last - 1) + 1):
        fixed = pinned or k in accessed
        # Whole at the first critical task after its making, since no copy in can be under way; later one can.
        whole = computed and info.swappable and k == birth
        x.present[value, k] = model.variable(1.0 if fixed else 0.0, 1.0, integer=whole)
        if fixed:
            x.fixed.add((value, k))
    if carried:
        x.resident[value] = model.variable(1.0 if pinned else 0.0, 1.0)
    if info.swappable:
        for k in range(birth + (1 if computed else 0), horizon + 1):
            x.copied_in[value, k] = model.variable(0.0, 1.0)
        if info.origin in (Origin.COMPUTED, Origin.STATE):
            # State goes out twice at most: its old version and its new one.
            most = 2.0 if info.origin is Origin.STATE else 1.0
            for k in range(birth, horizon + 1):
                x.copied_out[value, k] = model.variable(0.0, most)
