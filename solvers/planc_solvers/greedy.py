"""First plans for tight budgets: evict when memory runs out, bring back on demand, compiled.

The online rule of dynamic tensor rematerialization (Kirisame et al., ICLR 2021) with the future known, and with the host
as a second way out: of the values on the device the one is evicted whose return costs least for its bytes and for the
time until it is read next. It returns by recomputation, with what that needs and is gone too, or by a copy, at a price
on the link's time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from planc_solvers.arrays import BATCH, COMPUTED, STATE, Arrays, Bytes8, Ints, Plan, arrays_of, empty_plan
from planc_solvers.compiled import inner, outer
from planc_solvers.evaluate import evaluate
from planc_solvers.packed import Packed
from planc_solvers.ready import TINY, Once
from planc_solvers.workspace import EXCESS, MAKESPAN, Floats, Workspace, workspace

WEIGHTS = ((1.0, 0.5), (1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 2.0), (1.0, 0.0))
"""Powers of a value's bytes and of its wait by which the cost of its return is divided, tried first."""

LINK_PRICES = (0.1, 0.3, 0.03, 1.0)
"""Compute time that a unit of copy time is taken to cost, tried first: less the more of it hides."""

CUTS = (0.5, 0.1, 0.5, 0.1)
"""Boundaries that each copy is taken to cost, with each of these prices: less the more copies share theirs."""

SPREAD = 0.5
"""Standard deviation of the weights tried then around the best, of the price's in its logarithm."""

MOST_REPEATS = 400
"""Recomputations for the sake of one task after which the rule is going round in circles."""

HELD, AWAY, GONE = 1, 2, 0
"""Where a value is: on the device, on the host only, or nowhere."""


def greedy_plans(a: Arrays, place: Workspace, seed: int) -> Iterator[Plan | None]:
    """Try one set of weights after the other, without end: a plan within the budgets faster than all before, or None."""
    trail, generator = _trail(a), np.random.default_rng(seed)
    prices = LINK_PRICES if a.swappable.any() else LINK_PRICES[:1]
    first = [
        np.array([size, wait, price, cuts]) for size, wait in WEIGHTS for price, cuts in zip(prices, CUTS, strict=False)
    ]
    best, lowest = first[0], np.inf
    for trial in count():
        weights = first[trial] if trial < len(first) else _nearby(best, generator)
        plan = empty_plan(a)
        trail.begin(weights)
        valid = _greedy(a, plan, trail) and evaluate(a, plan, place)
        better = valid and place.total[EXCESS] <= 0 and place.total[MAKESPAN] < lowest
        if better:
            best, lowest = weights, float(place.total[MAKESPAN])
        yield plan if better else None


def _nearby(weights: Floats, generator: np.random.Generator) -> Floats:
    step = generator.normal(0.0, SPREAD, 4)
    wait, price, cuts = max(0.0, weights[1] + step[1]), weights[2] * np.exp(step[2]), weights[3] * np.exp(2 * step[3])
    return np.array([weights[0] + step[0] / 2, wait, price, cuts])


@dataclass(frozen=True, eq=False)
class _Trail(Packed):
    """Where values are and what was looked at, while one plan is made."""

    ptr: Ints
    readers: Ints
    """For each value v the tasks that access it, in order: readers[ptr[v]:ptr[v + 1]]."""
    weights: Floats
    where: Bytes8
    """Of each value: held, away or gone."""
    on_host: Bytes8
    wanted: Ints
    """The stamp of the last look at what was to be read, of each value; then the present stamp."""
    seen: Ints
    """The same of tasks."""
    stack: Ints
    done: Bytes8
    """1 for tasks that have run."""

    def begin(self, weights: Floats) -> None:
        """Forget the plan made before; these weights hold for the next one."""
        self.weights[:] = weights
        for array in (self.where, self.on_host, self.wanted, self.seen, self.done):
            array.fill(0)


def _trail(a: Arrays) -> _Trail:
    tasks, values = a.duration.size, a.size.size
    accessed_by = np.repeat(np.arange(tasks), np.diff(a.read_ptr))
    order = np.argsort(a.reads, kind="stable")
    ptr = np.searchsorted(a.reads[order], np.arange(values + 1)).astype(np.int64)
    where, on_host, done = np.zeros(values, np.uint8), np.zeros(values, np.uint8), np.zeros(tasks, np.uint8)
    wanted, seen, stack = np.zeros(values + 1, np.int64), np.zeros(tasks + 1, np.int64), np.zeros(tasks + 1, np.int64)
    return _Trail(ptr, accessed_by[order], np.zeros(4), where, on_host, wanted, seen, stack, done)


@inner
def _readers_before(t: _Trail, value: int, now: int) -> int:
    """How many of the tasks that access `value` come before `now`."""
    readers, base = t.readers, t.ptr[value]
    low, high = base, t.ptr[value + 1]
    while low < high:
        middle = (low + high) >> 1
        if readers[middle] < now:
            low = middle + 1
        else:
            high = middle
    return int(low - base)


@inner
def _recomputation(a: Arrays, value: int, t: _Trail, stamp: int, price: float) -> float:
    """Cost of making `value` again: its task, and what that needs and is not on the device."""
    if a.producer[value] < 0:
        return np.inf
    where, seen, stack = t.where, t.seen, t.stack
    stack[0] = a.producer[value]
    seen[stack[0]] = stamp
    top, cost = 1, 0.0
    while top > 0:
        top -= 1
        task = stack[top]
        if a.recomputable[task] == 0:
            return np.inf
        cost += a.duration[task]
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            v, made = a.reads[k], a.producer[a.reads[k]]
            if where[v] == AWAY:
                cost += price * a.in_ns[v]
            elif where[v] == GONE and seen[made] != stamp:
                seen[made] = stamp
                stack[top] = made
                top += 1
    return cost


@inner
def _copying(a: Arrays, value: int, home: bool, on_host: Bytes8, price: float, cuts: float) -> float:
    """Cost of sending `value` to the host and back, `cuts` boundaries included; at `home` state goes both ways."""
    if a.swappable[value] == 0:
        return np.inf
    kept = on_host[value] and not (home and a.origin[value] == STATE)
    copied = a.in_ns[value] + (0 if kept else a.out_ns[value])
    return float(price * copied + cuts * a.boundary * (1 if kept else 2))


@inner
def _next_task(a: Arrays, now: int, t: _Trail, stamp: int) -> int:
    """The first of the tasks to run so that `now` finds its inputs; stamps `wanted` of all that they read."""
    where, wanted, seen, stack = t.where, t.wanted, t.seen, t.stack
    stack[0] = now
    seen[now] = stamp
    top, first = 1, now
    while top > 0:
        top -= 1
        task = stack[top]
        first = min(first, task)
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            v = a.reads[k]
            wanted[v] = stamp
            if where[v] == GONE and seen[a.producer[v]] != stamp:
                seen[a.producer[v]] = stamp
                stack[top] = a.producer[v]
                top += 1
    return first


@inner
def _evict(a: Arrays, s: Plan, now: int, task: int, t: _Trail) -> int:
    """Evict a value before `task`, which runs for the sake of `now`: its bytes, or -1 when everything is an input."""
    where, on_host, wanted, ptr, readers, seen, weights = t.where, t.on_host, t.wanted, t.ptr, t.readers, t.seen, t.weights
    best, lowest, stamp, copied, at_home = -1, np.inf, wanted[wanted.size - 1], False, False
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        wanted[a.reads[k]] = -stamp
    for v in range(where.size):
        if where[v] != HELD or a.size[v] == 0 or wanted[v] == -stamp:
            continue
        at = _readers_before(t, v, now)
        ends = at == ptr[v + 1] - ptr[v]
        lives = a.needed[v] if a.origin[v] == COMPUTED else a.origin[v] != BATCH
        soon = wanted[v] == stamp
        if ends and not lives and not soon:
            best, lowest, copied, at_home = v, 0.0, False, False
            break
        home = (ends and lives) or (at == 0 and a.producer[v] < 0)
        wait = 1.0 + a.duration.size - now if ends else readers[ptr[v] + at] - now + 1.0
        share = a.size[v] ** weights[0] * (1.0 if soon else wait) ** weights[1]
        late = 1e18 if soon else 0.0
        cost = _copying(a, v, home, on_host, weights[2], weights[3])
        copy = True
        made = a.producer[v] if not (ends and lives) else -1
        repeat = made >= 0 and a.recomputable[made] and (ends or a.deadline[made] > readers[ptr[v] + at])
        if min(cost, a.duration[made] if repeat else np.inf) / share + late >= lowest:
            continue
        if repeat:
            seen[seen.size - 1] += 1
            again = _recomputation(a, v, t, seen[seen.size - 1], weights[2])
            copy = cost <= again
            cost = min(cost, again)
        if cost / share + late < lowest:
            best, lowest, copied, at_home = v, cost / share + late, copy, home
    if best < 0:
        return -1
    where[best] = AWAY if copied else GONE
    if copied:
        on_host[best] = 1
        if at_home:
            s.home[best] = 1
    return int(a.size[best])


@inner
def _append(a: Arrays, s: Plan, task: int, t: _Trail) -> int:
    """Run `task` as the next step, fetching inputs that are away; the bytes that are on the device in addition after it."""
    position, added, where, on_host = s.length[0], 0, t.where, t.on_host
    s.seq[position] = task
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        if where[a.reads[k]] == AWAY:
            slot = k - a.read_ptr[task]
            s.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)
            where[a.reads[k]] = HELD
            added += a.size[a.reads[k]]
    for k in range(a.mutate_ptr[task], a.mutate_ptr[task + 1]):
        on_host[a.mutates[k]] = 0
    for k in range(a.write_ptr[task], a.write_ptr[task + 1]):
        added += 0 if where[a.writes[k]] == HELD else a.size[a.writes[k]]
        where[a.writes[k]] = HELD
    s.length[0] = position + 1
    return added


@outer
def _greedy(a: Arrays, s: Plan, t: _Trail) -> bool:
    """Write the plan into `s`; False when eviction finds none within its room. `t` has just begun."""
    tasks, values = a.duration.size, a.size.size
    where, on_host, wanted, seen, done = t.where, t.on_host, t.wanted, t.seen, t.done
    used = 0
    s.length[0] = 0
    for v in range(values):
        if a.producer[v] < 0:
            where[v] = HELD
            on_host[v] = a.origin[v] != STATE
            used += a.size[v]
    for now in range(tasks):
        task, repeats = -1, 0
        while task != now:
            seen[tasks] += 1
            wanted[values] = seen[tasks]
            task = _next_task(a, now, t, seen[tasks])
            repeats += 1
            late = a.deadline[task] < tasks and done[a.deadline[task]]
            if task != now and (a.recomputable[task] == 0 or late or repeats > MOST_REPEATS):
                return False
            incoming = a.form_bytes[a.form_ptr[task]]
            for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
                incoming += a.size[a.reads[k]] if where[a.reads[k]] == AWAY else 0
            while used + incoming > a.budget:
                freed = _evict(a, s, now, task, t)
                if freed < 0:
                    return False
                used -= freed
            if s.length[0] >= s.seq.size - 64:
                return False
            used += _append(a, s, task, t)
            done[task] = 1
    return True


@Once
def ready_greedy() -> None:
    """Compile, or load, the plans of this file."""
    tiny = arrays_of(TINY)
    next(greedy_plans(tiny, workspace(tiny), 0))
