"""A lower bound on every schedule: Checkmate with swap, its memory rows kept at a few critical tasks only.

Checkmate (Jain et al., MLSys 2020) decides residency and recomputation at every task; here the critical tasks
K_0 < … < K_{m-1} cut the step into stages 0 … m, stage k ending where K_k starts for the first time. Whatever the
choice of critical tasks, every schedule whose first executions follow the given order maps to a point of the model, so
its optimum is a bound. P = fraction of a value present at K_k, R = recomputed in stage k, O and I = fractions copied
out and in during stage k, rho = fraction of a state value on the device at both ends of the step. A task with a choice of
forms runs in its fastest that the budget leaves room for; at a critical task the choice is a variable.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from planc.problem.problem import Origin, Problem
from planc_solvers.bounds.linear_model import LinearModel

Terms = list[tuple[int, float]]


@dataclass(slots=True)
class Coarse:
    """The model of one choice of critical tasks; variables are found by (value or task, stage).

    `constant[k]` are the bytes at critical task k that no decision changes. Memory rows are scaled by the budget and
    time by the base duration.
    """

    problem: Problem
    critical: tuple[int, ...]
    model: LinearModel = field(default_factory=LinearModel)
    present: dict[tuple[int, int], int] = field(default_factory=dict)
    recomputed: dict[tuple[int, int], int] = field(default_factory=dict)
    copied_in: dict[tuple[int, int], int] = field(default_factory=dict)
    copied_out: dict[tuple[int, int], int] = field(default_factory=dict)
    time: list[int] = field(default_factory=list)
    """The time of each stage."""
    resident: dict[int, int] = field(default_factory=dict)
    constant: list[int] = field(default_factory=list)
    birth: list[int] = field(default_factory=list)
    horizon: list[int] = field(default_factory=list)
    last_repeat: list[int] = field(default_factory=list)
    uses: list[list[int]] = field(default_factory=list)
    fixed: set[tuple[int, int]] = field(default_factory=set)
    stage: list[int] = field(default_factory=list)
    memory_rows: list[int] = field(default_factory=list)
    host_rows: list[int] = field(default_factory=list)
    """Rows whose right side is a part of a budget."""
    copy_rows: list[int] = field(default_factory=list)
    """Rows that let a stage last as long as its copies; their first coefficient is the stage's time's."""
    forms: dict[tuple[int, int], int] = field(default_factory=dict)
    """Fraction of critical task k's first execution that runs in its form f, where it has a choice."""

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.critical) + 1

    def before(self, task: int) -> int:
        """Stage in which the moment just before `task` first starts lies."""
        return int(np.searchsorted(self.critical, task, side="left"))

    def swappable(self, value: int) -> bool:
        """Whether copies of `value` may be made."""
        return self.problem.values[value].swappable

    def first_return(self, value: int) -> int:
        """First stage for which `value` may have to come back: it is there in the one before without being asked for."""
        origin = self.problem.values[value].origin
        return self.birth[value] + 1 if origin is Origin.COMPUTED else 1 if origin is Origin.BATCH else 0

    def must_return(self, value: int, stage: int) -> bool:
        """Whether `value` may be absent at the start of `stage`, so that an access in it needs it back."""
        return stage >= self.first_return(value) and (value, stage - 1) not in self.fixed

    def supply(self, value: int, stage: int) -> Terms:
        """Ways for `value` to be on the device in `stage`: still there, recomputed, copied in."""
        terms: Terms = []
        previous = self.present.get((value, stage - 1)) if stage else self.resident.get(value)
        if previous is not None:
            terms.append((previous, 1.0))
        terms.extend(self.remade(value, stage))
        return terms

    def returns(self, value: int, stage: int) -> tuple[list[int], list[int]]:
        """Variables by which `value`, given up at the end of `stage`, may come back: copies in, recomputations."""
        producer, later = self.problem.producer[value], range(stage + 1, self.stages)
        copies = (self.copied_in.get((value, q)) for q in later)
        repeats = (self.recomputed.get((producer, q)) for q in later) if producer is not None else ()
        return [x for x in copies if x is not None], [x for x in repeats if x is not None]

    def remade(self, value: int, stage: int) -> Terms:
        """Ways for `value` to come back to the device in `stage`: recomputed, copied in."""
        producer = self.problem.producer[value]
        found = (
            self.recomputed.get((producer, stage)) if producer is not None else None,
            self.copied_in.get((value, stage)),
        )
        return [(variable, 1.0) for variable in found if variable is not None]


def coarse_model(problem: Problem, critical: tuple[int, ...], pair_cuts: bool = True) -> Coarse:
    """The model of `problem` with memory rows at the tasks `critical` (increasing, at least one)."""
    c = Coarse(problem, critical)
    _stages(c)
    for value in range(len(problem.values)):
        _variables(c, value)
    for task, info in enumerate(problem.tasks):
        if info.recomputable:
            for k in range(c.stage[task] + 1, c.last_repeat[task] + 1):
                c.recomputed[task, k] = c.model.variable(0.0, 1.0, integer=True)
    for value in range(len(problem.values)):
        _presence_rows(c, value)
        _copy_rows(c, value)
    _input_rows(c)
    if pair_cuts:
        _pair_cuts(c)
    _form_variables(c)
    _memory_rows(c)
    _time_rows(c)
    return c


def _form_variables(c: Coarse) -> None:
    for k, task in enumerate(c.critical):
        forms = c.problem.tasks[task].forms
        if len(forms) > 1:
            for f in range(len(forms)):
                c.forms[k, f] = c.model.variable(0.0, 1.0)
            c.model.row([(c.forms[k, f], 1.0) for f in range(len(forms))], lower=1.0, upper=1.0)


def _stages(c: Coarse) -> None:
    """Stages of first executions, and how far each value and each recomputation can matter."""
    problem, last = c.problem, c.stages - 1
    c.stage = np.searchsorted(c.critical, np.arange(len(problem.tasks)), side="right").tolist()
    c.birth = [0 if p is None else c.stage[p] for p in problem.producer]
    c.uses = [[] for _ in problem.values]
    for task, accessed in enumerate(problem.accesses):
        for value in accessed:
            if not c.uses[value] or c.uses[value][-1] != c.stage[task]:
                c.uses[value].append(c.stage[task])
    c.horizon = [
        last if v.needed_after_step or v.origin in (Origin.STATE, Origin.CONSTANT) else (uses[-1] if uses else birth)
        for v, uses, birth in zip(problem.values, c.uses, c.birth, strict=True)
    ]
    c.last_repeat = [-1] * len(problem.tasks)
    for task in range(len(problem.tasks) - 1, -1, -1):
        if problem.tasks[task].recomputable:
            c.last_repeat[task] = min(
                max((c.horizon[v] for v in problem.tasks[task].writes), default=-1), _limit(c, task)
            )
            for value in problem.accesses[task]:
                c.horizon[value] = max(c.horizon[value], c.last_repeat[task])


def _limit(c: Coarse, task: int) -> int:
    """Last stage in which `task` still finds the old versions of the state that it reads."""
    limit = c.stages - 1
    for value in c.problem.accesses[task]:
        mutator = c.problem.mutator[value]
        if mutator is not None and task < mutator:
            limit = min(limit, c.before(mutator))
    return limit


def _variables(c: Coarse, value: int) -> None:
    info, computed = c.problem.values[value], c.problem.values[value].origin is Origin.COMPUTED
    if computed and c.birth[value] == c.horizon[value]:
        return
    carried = info.origin in (Origin.STATE, Origin.CONSTANT)
    pinned = carried and not info.swappable
    accessed = [k for k, task in enumerate(c.critical) if value in c.problem.accesses[task]]
    for k in range(c.birth[value], min(c.horizon[value], c.stages - 2) + 1):
        fixed = pinned or k in accessed
        # Whole at the first critical task after its making, since no copy in can be under way; later one can.
        whole = computed and info.swappable and k == c.birth[value]
        c.present[value, k] = c.model.variable(1.0 if fixed else 0.0, 1.0, integer=whole)
        if fixed:
            c.fixed.add((value, k))
    if carried:
        c.resident[value] = c.model.variable(1.0 if pinned else 0.0, 1.0)
    if info.swappable:
        for k in range(c.birth[value] + (1 if computed else 0), c.horizon[value] + 1):
            c.copied_in[value, k] = c.model.variable(0.0, 1.0)
        if info.origin in (Origin.COMPUTED, Origin.STATE):
            for k in range(c.birth[value], c.horizon[value] + 1):
                c.copied_out[value, k] = c.model.variable(0.0, 2.0 if info.origin is Origin.STATE else 1.0)


def _presence_rows(c: Coarse, value: int) -> None:
    """A value is present only if it was or came back; at each use it is there."""
    for k in range(c.first_return(value), c.horizon[value] + 1):
        if (value, k) in c.present:
            supply = [(x, -w) for x, w in c.supply(value, k)]
            c.model.row([(c.present[value, k], 1.0), *supply], upper=0.0)
    for k in c.uses[value]:
        if c.must_return(value, k) and (value, k) not in c.fixed:
            c.model.row(c.supply(value, k), lower=1.0)


def _copy_rows(c: Coarse, value: int) -> None:
    info = c.problem.values[value]
    if info.origin is Origin.STATE and info.swappable:
        _state_rows(c, value)
    elif info.origin is Origin.CONSTANT and info.swappable:
        c.model.row([(c.resident[value], 1.0), *((x, -w) for x, w in c.supply(value, c.stages - 1))], upper=0.0)
    elif info.origin is Origin.COMPUTED and (value, c.birth[value]) in c.present:
        _saved_rows(c, value)


def _outs(c: Coarse, value: int, first: int, last: int) -> Terms:
    found = (c.copied_out.get((value, k)) for k in range(first, last + 1))
    return [(x, 1.0) for x in found if x is not None]


def _saved_rows(c: Coarse, value: int) -> None:
    """A copy in needs the host copy; what is absent at a critical task is on the host by then, or recomputed later."""
    last = c.stages - 1
    birth, horizon = c.birth[value], c.horizon[value]
    if c.swappable(value):
        c.model.row(_outs(c, value, birth, horizon), upper=1.0)
    for k in range(birth + 1, horizon + 1):
        if (value, k) in c.copied_in:
            host = [(x, -w) for x, w in _outs(c, value, birth, k)]
            c.model.row([(c.copied_in[value, k], 1.0), *host], upper=0.0)
    for k in range(birth, min(horizon, last - 1) + 1):
        later = [use for use in c.uses[value] if use > k]
        if (value, k) in c.fixed or not (later or c.problem.values[value].needed_after_step):
            continue
        until = later[0] if later else horizon
        c.model.row(_content(c, value, k, until), lower=1.0)
    if c.problem.values[value].needed_after_step:
        c.model.row([*c.supply(value, last), *_outs(c, value, birth, horizon)], lower=1.0)


def _state_rows(c: Coarse, value: int) -> None:
    """Old version before the mutator, new one after: each on the device or on the host; the step ends as it began."""
    mutator, last, rho = c.problem.mutator[value], c.stages - 1, c.resident[value]
    old_until = last if mutator is None else c.before(mutator)
    new_from = last + 1 if mutator is None else c.stage[mutator]
    for k in range(last + 1):
        old = [(rho, -1.0), *_outs(c, value, 0, min(k, old_until))] if k <= old_until else []
        new = _outs(c, value, new_from, k) if k >= new_from else []
        host = _merged(old, new)
        offset = 1.0 if k <= old_until else 0.0
        c.model.row([(c.copied_in[value, k], 1.0), *((x, -w) for x, w in host)], upper=offset)
        if k < last and (value, k) not in c.fixed:
            version = new if mutator is not None and mutator < c.critical[k] else old
            c.model.row([(c.present[value, k], 1.0), *version], lower=0.0 if version is old else 1.0)
    c.model.row([(rho, 1.0), *((x, -w) for x, w in c.supply(value, last))], upper=0.0)
    if mutator is not None:
        c.model.row([(rho, 1.0), *_outs(c, value, new_from, last)], lower=1.0)


def _merged(*parts: Terms) -> Terms:
    total: dict[int, float] = {}
    for variable, weight in (term for part in parts for term in part):
        total[variable] = max(total.get(variable, weight), weight)
    return list(total.items())


def _input_rows(c: Coarse) -> None:
    """A recomputation finds its inputs, whose content at the critical task before was on the device or on the host."""
    for (task, k), repeat in c.recomputed.items():
        for value in c.problem.accesses[task]:
            computed = c.problem.values[value].origin is Origin.COMPUTED
            if computed and c.birth[value] == k:
                continue
            if (value, k - 1) not in c.fixed:
                c.model.row([(repeat, 1.0), *((x, -w) for x, w in c.supply(value, k))], upper=0.0)
            if computed and c.swappable(value):
                for before in range(c.birth[value], k):
                    if (value, before) not in c.fixed:
                        content = _content(c, value, before, k)
                        c.model.row([(repeat, 1.0), *((x, -w) for x, w in content)], upper=0.0)


def _content(c: Coarse, value: int, before: int, until: int) -> Terms:
    """Where a computed value's content lies at critical task `before`, or its recomputation up to stage `until`."""
    producer = c.problem.producer[value]
    again = (c.recomputed.get((producer, q)) for q in range(before + 1, until + 1)) if producer is not None else ()
    held = [(c.present[value, before], 1.0), *_outs(c, value, c.birth[value], before)]
    return [*held, *((x, 1.0) for x in again if x is not None)]


def _pair_cuts(c: Coarse) -> None:
    """A value and an input of its producer both absent at a critical task: one of them comes back before the next use.

    Without these cuts more critical tasks can weaken the relaxation: the recomputation spreads over several stages.
    """
    for value, producer in enumerate(c.problem.producer):
        if producer is None or not c.problem.tasks[producer].recomputable:
            continue
        for k in range(c.birth[value], c.horizon[value]):
            later = [use for use in c.uses[value] if use > k]
            if (value, k) not in c.present or (value, k) in c.fixed or not later:
                continue
            span = range(k + 1, later[0] + 1)
            fetched = [(x, 1.0) for q in span if (x := c.copied_in.get((value, q))) is not None]
            for parent in c.problem.accesses[producer]:
                if (parent, k) in c.present and (parent, k) not in c.fixed:
                    back = [term for q in span for term in c.remade(parent, q)]
                    held = [(c.present[value, k], 1.0), (c.present[parent, k], 1.0)]
                    c.model.row([*held, *fetched, *back], lower=1.0)


def _memory_rows(c: Coarse) -> None:
    problem, budget = c.problem, c.problem.budget_bytes
    for k, task in enumerate(c.critical):
        inside = [v for v in problem.accesses[task] if (v, k) not in c.present]
        forms = problem.tasks[task].forms
        least = min(form.working_bytes for form in forms)
        fixed = least + sum(problem.values[v].bytes for v in inside)
        terms = [(x, problem.values[v].bytes / budget) for (v, q), x in c.present.items() if q == k]
        terms.extend((c.forms[k, f], (forms[f].working_bytes - least) / budget) for q, f in c.forms if q == k)
        c.memory_rows.append(c.model.row(terms, upper=(budget - fixed) / budget))
        c.constant.append(fixed)
    resident = [(x, problem.values[v].bytes / budget) for v, x in c.resident.items()]
    if resident:
        begin = problem.entry_bytes(0) - sum(problem.values[v].bytes for v in problem.accesses[0] if v in c.resident)
        c.memory_rows.append(c.model.row(resident, upper=(budget - begin) / budget))
    if problem.host_budget_bytes is not None:
        _host_row(c, max(problem.host_budget_bytes, 1))


def _host_row(c: Coarse, limit: int) -> None:
    """Every value that is ever on the host has a slot of its own there: what is copied out, what begins or ends there, and
    state that is absent at a critical task. Batch values are left out."""
    absent: dict[int, list[int]] = {v: [x] for v, x in c.resident.items() if c.swappable(v)}
    for (value, _), x in c.present.items():
        if value in absent:
            absent[value].append(x)
    terms: Terms = []
    for value, info in enumerate(c.problem.values):
        part = c.problem.host_bytes(value) / limit
        if info.origin is Origin.COMPUTED:
            terms.extend((x, part) for x, _ in _outs(c, value, 0, c.stages - 1))
        elif value in absent:
            slot = c.model.variable(0.0, 1.0)
            terms.append((slot, part))
            for x in absent[value]:
                c.model.row([(slot, 1.0), (x, 1.0)], lower=1.0)
    c.host_rows.append(c.model.row(terms, upper=1.0))


def _time_rows(c: Coarse) -> None:
    """Each stage lasts as long as its compute with the slow-down that copies cause, and as each copy engine needs."""
    problem, base = c.problem, max(c.problem.base_duration_ns, 1)
    ends = [0, *c.critical, len(problem.tasks)]
    least = [least_ns(problem, task) for task in range(len(problem.tasks))]
    compute = [sum(least[a:b]) / base for a, b in pairwise(ends)]
    drag = min(_lost(problem.contention.compute_one_copy_ppm), _lost(problem.contention.compute_two_copies_ppm) / 2)
    work: list[Terms] = [[] for _ in range(c.stages)]
    ins: list[Terms] = [[] for _ in range(c.stages)]
    outs: list[Terms] = [[] for _ in range(c.stages)]
    for (task, k), x in c.recomputed.items():
        work[k].append((x, least[task] / base))
    for (k, f), x in c.forms.items():
        critical = c.critical[k]
        work[k + 1].append((x, max(0, problem.tasks[critical].forms[f].duration_ns - least[critical]) / base))
    for (value, k), x in c.copied_in.items():
        ins[k].append((x, problem.values[value].copy_in_ns / base))
    for (value, k), x in c.copied_out.items():
        outs[k].append((x, problem.values[value].copy_out_ns / base))
    for k in range(c.stages):
        time = c.model.variable(compute[k], float("inf"), cost=1.0)
        c.time.append(time)
        dragged = [(x, -w * drag) for x, w in ins[k] + outs[k]] if drag else []
        c.model.row([(time, 1.0), *((x, -w) for x, w in work[k]), *dragged], lower=compute[k])
        for copies in (ins[k], outs[k]):
            if copies:
                c.copy_rows.append(c.model.row([(time, 1.0), *((x, -w) for x, w in copies)], lower=0.0))


def least_ns(problem: Problem, task: int) -> int:
    """Duration of `task` in its fastest form that the budget leaves room for, else in any."""
    forms = problem.tasks[task].forms
    held = problem.entry_bytes(task) - min(form.working_bytes for form in forms)
    fitting = [form.duration_ns for form in forms if held + form.working_bytes <= problem.budget_bytes]
    return min(fitting or (form.duration_ns for form in forms))


def _lost(ppm: int) -> float:
    """Compute lost per unit of time during which copies slow it down by `ppm`."""
    return ppm / (1_000_000 + ppm)
