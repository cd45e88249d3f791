"""The rule by which values go when memory runs out and come back on demand, compiled.

The online rule of dynamic tensor rematerialization (Kirisame et al., ICLR 2021) with the future known, and with the host
as a second way out: of the values on the device the one is evicted whose return costs least for its bytes and for the
time until it is read next. It returns by recomputation, with what that needs and is gone too, or by a copy, at a price
on the link's time.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import BATCH, COMPUTED, STATE, Arrays, Bytes8, Ints, SearchPlan, step_capacity
from planc_solvers.evaluation.workspace import Floats
from planc_solvers.jit import inner, piece


class EvictionRule(NamedTuple):
    """What the rule never does, and what it does last."""

    most_repeats: int = 400
    """Recomputations for the sake of one task after which the rule is going round in circles: it gives up. Longer chains
    may be right, but each look at one costs their length."""
    least_part: float = 1 / 64
    """Part of the missing bytes below which a value goes only when no larger one is left: thousands would have to go, and
    come back."""
    spare_steps: int = 64
    """Steps of a plan that stay free, so that moves find room to recompute more."""
    wanted_soon: float = 1e18
    """Added to the rank of what the task's inputs need: it goes last of all. Larger than any cost in ns."""
    too_small: float = 1e17
    """Added to the rank of values of next to no bytes: they go before those, after all others."""


RULE = EvictionRule()

HELD, AWAY, GONE = 1, 2, 0
"""Where a value is: on the device, on the host only, or nowhere."""

HELD_COUNT, WANTED_STAMP, SEEN_STAMP = range(3)
"""Indices of `Trail.counters`: the values in `Trail.held`, and the stamps of the present looks at values and at tasks."""

SIZE_POWER, WAIT_POWER, LINK_PRICE, COPY_CUTS = range(4)
"""Indices of `Trail.weights`: powers of a value's bytes and of its wait by which the cost of its return is divided, compute
time that a unit of copy time is taken to cost, and boundaries that a copy is."""


@dataclass(frozen=True, eq=False)
class Trail(Packed):
    """Where values are and what was looked at, while one plan is made."""

    ptr: Ints
    readers: Ints
    """For each value v the tasks that access it, in order: readers[ptr[v]:ptr[v + 1]]."""
    weights: Floats
    where: Bytes8
    """Of each value: held, away or gone."""
    movable: Bytes8
    """1 for values that take bytes, and can return or are not needed for ever."""
    held: Ints
    """The movable values that are held, in any order; `HELD_COUNT` of them."""
    rank: Ints
    """Of each of those values its index in `held`."""
    on_host: Bytes8
    wanted: Ints
    """Of each value the stamp of the last look that found it to be read; negative for what the task under way reads."""
    seen: Ints
    """Of each task the stamp of the last look at it."""
    counters: Ints
    """Three numbers: see `HELD_COUNT`."""
    stack: Ints
    done: Bytes8
    """1 for tasks that have run."""
    fates: Bytes8
    """What becomes of the values of each step of a plan, what it reads before what it makes: held, away or gone."""
    later: Bytes8


def trail(a: Arrays) -> Trail:
    """Room for the plans of the problem `a`."""
    tasks, values = a.duration.size, a.size.size
    accessed_by = np.repeat(np.arange(tasks), np.diff(a.read_ptr))
    order = np.argsort(a.reads, kind="stable")
    ptr = np.searchsorted(a.reads[order], np.arange(values + 1)).astype(np.int64)
    mortal = (a.origin == BATCH) | ((a.origin == COMPUTED) & (a.needed == 0))
    repeatable = (a.producer >= 0) & (a.recomputable[a.producer] != 0)
    most = int((np.diff(a.read_ptr) + np.diff(a.write_ptr)).max(initial=0))
    return Trail(
        ptr=ptr,
        readers=accessed_by[order],
        weights=np.zeros(4),
        where=np.zeros(values, np.uint8),
        movable=((a.size > 0) & (mortal | repeatable | (a.swappable != 0))).astype(np.uint8),
        held=np.zeros(values, np.int64),
        rank=np.zeros(values, np.int64),
        on_host=np.zeros(values, np.uint8),
        wanted=np.zeros(values, np.int64),
        seen=np.zeros(tasks, np.int64),
        counters=np.zeros(3, np.int64),
        stack=np.zeros(tasks + 1, np.int64),
        done=np.zeros(tasks, np.uint8),
        fates=np.zeros((step_capacity(a), most), np.uint8),
        later=np.zeros(values, np.uint8),
    )


@inner
def hold(v: int, t: Trail) -> None:
    """`v`, which was not, is on the device."""
    t.where[v] = HELD
    if t.movable[v]:
        count = t.counters[HELD_COUNT]
        t.held[count], t.rank[v] = v, count
        t.counters[HELD_COUNT] = count + 1


@inner
def let_go(v: int, fate: int, t: Trail) -> None:
    """`v`, which was held, is away or gone."""
    t.where[v] = fate
    if t.movable[v]:
        last = t.counters[HELD_COUNT] - 1
        other = t.held[last]
        t.held[t.rank[v]], t.rank[other] = other, t.rank[v]
        t.counters[HELD_COUNT] = last


@inner
def _readers_before(t: Trail, value: int, now: int) -> int:
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
def _recomputation(a: Arrays, value: int, most: float, t: Trail) -> float:
    """Cost of making `value` again: its task, and what that needs and is not on the device. Infinite from `most` on."""
    if a.producer[value] < 0:
        return np.inf
    t.counters[SEEN_STAMP] += 1
    where, seen, stack, stamp, price = t.where, t.seen, t.stack, t.counters[SEEN_STAMP], t.weights[LINK_PRICE]
    stack[0] = a.producer[value]
    seen[stack[0]] = stamp
    top, cost = 1, 0.0
    while top > 0:
        top -= 1
        task = stack[top]
        cost += a.duration[task]
        if a.recomputable[task] == 0 or cost >= most:
            return np.inf
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
def _copying(a: Arrays, value: int, home: bool, t: Trail) -> float:
    """Cost of sending `value` to the host and back, boundaries included; at `home` state goes both ways."""
    if a.swappable[value] == 0:
        return np.inf
    kept = t.on_host[value] and not (home and a.origin[value] == STATE)
    copied = a.in_ns[value] + (0 if kept else a.out_ns[value])
    return float(t.weights[LINK_PRICE] * copied + t.weights[COPY_CUTS] * a.boundary * (1 if kept else 2))


@inner
def next_task(a: Arrays, now: int, t: Trail) -> int:
    """The first of the tasks to run so that `now` finds its inputs; stamps `wanted` of all that they read."""
    t.counters[SEEN_STAMP] += 1
    t.counters[WANTED_STAMP] = t.counters[SEEN_STAMP]
    where, wanted, seen, stack, stamp = t.where, t.wanted, t.seen, t.stack, t.counters[SEEN_STAMP]
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


@piece
def _power(base: float, exponent: float) -> float:
    """`base` to the power of `exponent`: the usual exponents without the library's function, which takes most of a rank."""
    if exponent == 1.0:
        return base
    if exponent == 0.5:
        return float(np.sqrt(base))
    if exponent == 2.0:
        return base * base
    return float(base**exponent) if exponent != 0.0 else 1.0


@piece
def _rank(a: Arrays, v: int, now: int, missing: int, lowest: float, t: Trail) -> tuple[float, bool, bool]:
    """How dear the return of `v` is for its bytes and its wait: the least is evicted. Then whether a copy is the cheaper
    way, and whether the value is away at the step's ends. Infinite, without a close look, unless it may be below `lowest`.
    """
    # 1. When it is read next.
    at, readers = _readers_before(t, v, now), t.ptr[v + 1] - t.ptr[v]
    ends, soon = at == readers, t.wanted[v] == t.counters[WANTED_STAMP]
    lives = a.needed[v] if a.origin[v] == COMPUTED else a.origin[v] != BATCH
    if ends and not lives and not soon:
        return 0.0, False, False
    home = (ends and lives) or (at == 0 and a.producer[v] < 0)
    # 2. What it frees, and for how long.
    wait = 1.0 + a.duration.size - now if ends else t.readers[t.ptr[v] + at] - now + 1.0
    share = _power(float(a.size[v]), t.weights[SIZE_POWER]) * _power(1.0 if soon else wait, t.weights[WAIT_POWER])
    late = RULE.wanted_soon if soon else RULE.too_small if a.size[v] < RULE.least_part * missing else 0.0
    # 3. What its return costs, at least; then the recomputation with all that it needs.
    cost = _copying(a, v, home, t)
    made = a.producer[v] if not (ends and lives) else -1
    repeat = made >= 0 and a.recomputable[made] and (ends or a.deadline[made] > t.readers[t.ptr[v] + at])
    copy = True
    if min(cost, a.duration[made] if repeat else np.inf) / share + late >= lowest:
        return np.inf, copy, home
    if repeat:
        again = _recomputation(a, v, min(cost, (lowest - late) * share), t)
        copy = cost <= again
        cost = min(cost, again)
    return cost / share + late, copy, home


@inner
def evict(a: Arrays, s: SearchPlan, now: int, task: int, missing: int, t: Trail) -> int:
    """Evict a value before `task`, which runs for the sake of `now` and misses so many bytes: the value's bytes, or -1 when
    everything is an input."""
    best, lowest, copied, at_home = -1, np.inf, False, False
    # 1. What the task reads is marked: it stays.
    stamp = t.counters[WANTED_STAMP]
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        t.wanted[a.reads[k]] = -stamp
    # 2. Of the others, the one whose return is cheapest for its bytes and its wait.
    for index in range(t.counters[HELD_COUNT]):
        v = t.held[index]
        if t.wanted[v] == -stamp:
            continue
        cost, copy, home = _rank(a, v, now, missing, lowest, t)
        if cost < lowest:
            best, lowest, copied, at_home = v, cost, copy, home
        if lowest <= 0:
            break
    if best < 0:
        return -1
    # 3. It goes the cheaper way.
    let_go(best, AWAY if copied else GONE, t)
    if copied:
        t.on_host[best] = 1
        if at_home:
            s.home[best] = 1
    return int(a.size[best])


@inner
def append(a: Arrays, s: SearchPlan, task: int, t: Trail) -> int:
    """Run `task` as the next step, fetching inputs that are away; the bytes that are on the device in addition after it."""
    position, added, where, on_host = s.length[0], 0, t.where, t.on_host
    s.seq[position] = task
    for q in range(s.fetch.shape[1]):
        s.fetch[position, q] = np.uint64(0)
    for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
        if where[a.reads[k]] == AWAY:
            slot = k - a.read_ptr[task]
            s.fetch[position, slot >> 6] |= np.uint64(1) << np.uint64(slot & 63)
            hold(a.reads[k], t)
            added += a.size[a.reads[k]]
    for k in range(a.mutate_ptr[task], a.mutate_ptr[task + 1]):
        on_host[a.mutates[k]] = 0
    for k in range(a.write_ptr[task], a.write_ptr[task + 1]):
        if where[a.writes[k]] != HELD:
            hold(a.writes[k], t)
            added += a.size[a.writes[k]]
    s.length[0] = position + 1
    return added


@inner
def run(a: Arrays, s: SearchPlan, target: int, form: int, now: int, t: Trail, used: int) -> int:
    """Run `target` in that form after what must be recomputed for it, evicting where memory runs out.

    The bytes on the device after it, which were `used` before; -1 where there is no way.
    """
    tasks, task, repeats, again = a.duration.size, -1, 0, t.done[target]
    while task != target:
        # 1. What must run first; it must be allowed to.
        task = next_task(a, target, t)
        repeats += 1
        late = a.deadline[task] < tasks and t.done[a.deadline[task]]
        if (task != target or again) and (a.recomputable[task] == 0 or late or repeats > RULE.most_repeats):
            return -1
        # 2. Room for its working set and for what is copied in.
        chosen = form if task == target else 0
        incoming = a.form_bytes[a.form_ptr[task] + chosen]
        for k in range(a.read_ptr[task], a.read_ptr[task + 1]):
            incoming += a.size[a.reads[k]] if t.where[a.reads[k]] == AWAY else 0
        while used + incoming > a.budget:
            freed = evict(a, s, now, task, used + incoming - a.budget, t)
            if freed < 0:
                return -1
            used -= freed
        # 3. It runs.
        if s.length[0] >= s.seq.size - RULE.spare_steps:
            return -1
        s.choice[s.length[0]] = chosen
        used += append(a, s, task, t)
        t.done[task] = 1
    return used
