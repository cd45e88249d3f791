"""Rows of single values: present only where they come from, there when used, on the host before they come back from it."""

from planc.problem.problem import Origin
from planc_solvers.bounds.linear_model import Terms
from planc_solvers.bounds.relaxation import Coarse, minus


def add_value_rows(c: Coarse, value: int) -> None:
    """Add the rows that only this value's variables, and the recomputations of its task, occur in."""
    info = c.problem.values[value]
    _presence_rows(c, value)
    _use_rows(c, value)
    if info.origin is Origin.STATE and info.swappable:
        _state_rows(c, value)
    elif info.origin is Origin.CONSTANT and info.swappable:
        _residence_row(c, value)
    elif info.origin is Origin.COMPUTED and (value, c.stages.birth[value]) in c.x.present:
        _saved_rows(c, value)


def _presence_rows(c: Coarse, value: int) -> None:
    """A value is present only if it was, or came back:  P_vk ≤ P_v,k-1 + R_tk + I_vk."""
    for k in range(c.stages.first_return(value), c.stages.horizon[value] + 1):
        if (value, k) in c.x.present:
            c.model.row([(c.x.present[value, k], 1.0), *minus(c.supply(value, k))], upper=0.0)


def _use_rows(c: Coarse, value: int) -> None:
    """At each use it is there:  P_v,k-1 + R_tk + I_vk ≥ 1  in the stages k of its uses."""
    for k in c.stages.uses[value]:
        if c.must_return(value, k) and not c.is_fixed(value, k):
            c.model.row(c.supply(value, k), lower=1.0)


def _residence_row(c: Coarse, value: int) -> None:
    """What begins on the device is there at the end:  ρ_v ≤ P_v,m-1 + R_tm + I_vm."""
    c.model.row([(c.x.resident[value], 1.0), *minus(c.supply(value, c.stages.last))], upper=0.0)


def _saved_rows(c: Coarse, value: int) -> None:
    """Rows of a computed value that lives across critical tasks."""
    birth, horizon, last = c.stages.birth[value], c.stages.horizon[value], c.stages.last
    needed = c.problem.values[value].needed_after_step
    # One copy out is enough:  Σ O_vq ≤ 1.
    if c.swappable(value):
        c.model.row(c.outs(value, birth, horizon), upper=1.0)
    # A copy in needs the host's copy:  I_vk ≤ Σ O_vq over q ≤ k.
    for k in range(birth + 1, horizon + 1):
        if (value, k) in c.x.copied_in:
            c.model.row([(c.x.copied_in[value, k], 1.0), *minus(c.outs(value, birth, k))], upper=0.0)
    # What is absent at a critical task and wanted again is on the host by then, or recomputed before its next use u:
    # P_vk + Σ O_vq over q ≤ k + Σ R_tq over k < q ≤ u  ≥  1.
    for k in range(birth, min(horizon, last - 1) + 1):
        later = [use for use in c.stages.uses[value] if use > k]
        if not c.is_fixed(value, k) and (later or needed):
            c.model.row(c.content(value, k, later[0] if later else horizon), lower=1.0)
    # An output ends on the device or on the host:  P_v,m-1 + R_tm + I_vm + Σ O_vq ≥ 1.
    if needed:
        c.model.row([*c.supply(value, last), *c.outs(value, birth, horizon)], lower=1.0)


def _state_rows(c: Coarse, value: int) -> None:
    """Old version before the mutator, new one after: each on the device or on the host; the step ends as it began.

    The old version is on the host from the start unless the value is resident: 1 - ρ_v, and what is copied out by then.
    """
    mutator, last, rho = c.problem.mutator[value], c.stages.last, c.x.resident[value]
    old_until = last if mutator is None else c.stages.before(mutator)
    new_from = last + 1 if mutator is None else c.stages.of_task[mutator]
    for k in range(last + 1):
        old = [(rho, -1.0), *c.outs(value, 0, min(k, old_until))] if k <= old_until else []
        new = c.outs(value, new_from, k) if k >= new_from else []
        # A copy in needs a version on the host; in the stage of the mutator either:
        # I_vk ≤ (1 - ρ_v) + Σ O_vq.
        c.model.row([(c.x.copied_in[value, k], 1.0), *minus(_either(old, new))], upper=1.0 if k <= old_until else 0.0)
        # What is absent at a critical task is on the host in its present version:
        # P_vk + (1 - ρ_v) + Σ O_vq ≥ 1  before the mutator,  P_vk + Σ O_vq ≥ 1  over the stages q from the mutator's on.
        if k < last and not c.is_fixed(value, k):
            after = mutator is not None and mutator < c.critical[k]
            c.model.row([(c.x.present[value, k], 1.0), *(new if after else old)], lower=1.0 if after else 0.0)
    _residence_row(c, value)
    # What begins on the host ends there in its new version:  ρ_v + Σ O_vq ≥ 1  over q from the mutator's stage on.
    if mutator is not None:
        c.model.row([(rho, 1.0), *c.outs(value, new_from, last)], lower=1.0)


def _either(*parts: Terms) -> Terms:
    """Terms of which each counts once, at its larger weight."""
    total: dict[int, float] = {}
    for variable, weight in (term for part in parts for term in part):
        total[variable] = max(total.get(variable, weight), weight)
    return list(total.items())
