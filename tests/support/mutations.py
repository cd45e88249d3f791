"""Ways to alter a plan, made systematically: every field of every part, and every list, changed in every way that fits.

`MUTATIONS` maps the name of a class to a function of a plan and a random generator; None where the plan has nothing of the
kind to alter.
"""

import random
from collections.abc import Callable
from typing import Any

import msgspec

from planc.plan.plan import Plan

Mutation = Callable[[Plan, random.Random], Plan | None]
replace = msgspec.structs.replace

_STEPS: dict[str, Callable[[int, int, random.Random], int]] = {
    "plus 1": lambda value, other, rng: value + 1,
    "minus 1": lambda value, other, rng: value - 1,
    "plus a block": lambda value, other, rng: value + 256,
    "minus a block": lambda value, other, rng: value - 256,
    "plus a page": lambda value, other, rng: value + 4096,
    "of another": lambda value, other, rng: other,
    "zero": lambda value, other, rng: 0,
    "any": lambda value, other, rng: rng.randint(0, 2 * max(abs(value), 4)),
}
"""New integers from the old one and that of another entry."""

_INTEGERS = {
    "residencies": ("offset", "bytes", "begin", "end"),
    "copies": ("residency", "host_offset", "bytes", "after"),
    "host_slots": ("offset", "bytes"),
    "runs": ("layer",),
    "scratch": ("offset", "bytes"),
}
_MEMORY = ("slab_bytes", "host_bytes", "budget_bytes", "scratch_bytes", "session_bytes")


def _with(items: tuple[Any, ...], index: int, *new: Any) -> tuple[Any, ...]:
    return (*items[:index], *new, *items[index + 1 :])


def _integer(part: str, field: str, step: str) -> Mutation:
    def mutate(plan: Plan, rng: random.Random) -> Plan | None:
        items = getattr(plan, part)
        if not items:
            return None
        at, other = rng.randrange(len(items)), rng.choice(items)
        old = getattr(items[at], field)
        new = _STEPS[step](old, getattr(other, field), rng)
        return None if new == old else replace(plan, **{part: _with(items, at, replace(items[at], **{field: new}))})

    return mutate


def _list(part: str, change: Callable[[list[Any], random.Random], None]) -> Mutation:
    def mutate(plan: Plan, rng: random.Random) -> Plan | None:
        items = list(getattr(plan, part))
        if len(items) < 2:
            return None
        change(items, rng)
        return None if tuple(items) == getattr(plan, part) else replace(plan, **{part: tuple(items)})

    return mutate


def _drop(items: list[Any], rng: random.Random) -> None:
    items.pop(rng.randrange(len(items)))


def _repeat(items: list[Any], rng: random.Random) -> None:
    at = rng.randrange(len(items))
    items.insert(at, items[at])


def _exchange(items: list[Any], rng: random.Random) -> None:
    a, b = rng.sample(range(len(items)), 2)
    items[a], items[b] = items[b], items[a]


def _neighbours(items: list[Any], rng: random.Random) -> None:
    at = rng.randrange(len(items) - 1)
    items[at], items[at + 1] = items[at + 1], items[at]


def _move(items: list[Any], rng: random.Random) -> None:
    item = items.pop(rng.randrange(len(items)))
    items.insert(rng.randrange(len(items) + 1), item)


def _waits(part: str, change: Callable[[list[int], int, random.Random], None]) -> Mutation:
    def mutate(plan: Plan, rng: random.Random) -> Plan | None:
        items = getattr(plan, part)
        if not items or not plan.copies:
            return None
        at = rng.choice([i for i, item in enumerate(items) if item.waits] or range(len(items)))
        waits = list(items[at].waits)
        change(waits, len(plan.copies), rng)
        if tuple(waits) == items[at].waits:
            return None
        return replace(plan, **{part: _with(items, at, replace(items[at], waits=tuple(waits)))})

    return mutate


def _forget(waits: list[int], copies: int, rng: random.Random) -> None:
    if waits:
        waits.remove(rng.choice(waits))


def _forget_all(waits: list[int], copies: int, rng: random.Random) -> None:
    waits.clear()


def _await_any(waits: list[int], copies: int, rng: random.Random) -> None:
    waits.append(rng.randrange(copies))


def _await_another(waits: list[int], copies: int, rng: random.Random) -> None:
    if waits:
        waits[rng.randrange(len(waits))] = rng.randrange(copies)


def _memory(field: str, step: int) -> Mutation:
    def mutate(plan: Plan, rng: random.Random) -> Plan | None:
        new = getattr(plan.memory, field) + step
        return replace(plan, memory=replace(plan.memory, **{field: new}))

    return mutate


def _field(part: str, field: str, new: Callable[[Any, Plan, random.Random], Any]) -> Mutation:
    def mutate(plan: Plan, rng: random.Random) -> Plan | None:
        items = getattr(plan, part)
        if not items:
            return None
        at = rng.randrange(len(items))
        value = new(items[at], plan, rng)
        if value == getattr(items[at], field):
            return None
        return replace(plan, **{part: _with(items, at, replace(items[at], **{field: value}))})

    return mutate


def _two_places(plan: Plan, rng: random.Random) -> Plan | None:
    """Two residencies of one size exchange their places."""
    at = rng.randrange(len(plan.residencies))
    stay = plan.residencies[at]
    same = [i for i, s in enumerate(plan.residencies) if s.bytes == stay.bytes and s.offset != stay.offset]
    if not same:
        return None
    to = rng.choice(same)
    moved = _with(plan.residencies, at, replace(stay, offset=plan.residencies[to].offset))
    return replace(plan, residencies=_with(moved, to, replace(plan.residencies[to], offset=stay.offset)))


def _boundary(plan: Plan, rng: random.Random) -> Plan | None:
    """The boundary between two segments moves by a run."""
    if len(plan.segments) < 2:
        return None
    at = rng.randrange(len(plan.segments) - 1)
    (a, b), (_, d) = plan.segments[at], plan.segments[at + 1]
    b += rng.choice((-1, 1))
    return replace(plan, segments=(*plan.segments[:at], (a, b), (b, d), *plan.segments[at + 2 :]))


def _split(plan: Plan, rng: random.Random) -> Plan | None:
    """A segment becomes two."""
    placed = len(plan.scratch) or len(plan.segments)  # another mutation may have left fewer
    long = [i for i, (a, b) in enumerate(plan.segments) if b - a > 1 and i < placed]
    if not long:
        return None
    at = rng.choice(long)
    a, b = plan.segments[at]
    cut = rng.randrange(a + 1, b)
    scratch = _with(plan.scratch, at, plan.scratch[at], plan.scratch[at]) if plan.scratch else ()
    return replace(plan, segments=_with(plan.segments, at, (a, cut), (cut, b)), scratch=scratch)


def _earlier_copy(plan: Plan, rng: random.Random) -> Plan | None:
    """A copy starts at an earlier boundary, and goes where its direction's order wants it."""
    late = [i for i, copy in enumerate(plan.copies) if copy.after > 0]
    if not late:
        return None
    at = rng.choice(late)
    earlier = rng.choice([first for first, _ in plan.segments if first < plan.copies[at].after])
    return replace(plan, copies=_with(plan.copies, at, replace(plan.copies[at], after=earlier)))


def _moved_together(plan: Plan, rng: random.Random) -> Plan | None:
    """All residencies of a storage move by as much."""
    name = rng.choice(plan.residencies).storage
    by = rng.choice((-1024, -512, -256, 256, 512, 1024))
    stays = tuple(replace(s, offset=s.offset + by) if s.storage == name else s for s in plan.residencies)
    return None if any(s.offset < 0 for s in stays) else replace(plan, residencies=stays)


def _predicted(plan: Plan, rng: random.Random) -> Plan:
    """The prediction says something else; nothing is executed by it."""
    return replace(plan, prediction=replace(plan.prediction, step_ns=rng.randrange(10**9), stall_ns=rng.randrange(10)))


_LISTS = {
    "dropped": _drop,
    "repeated": _repeat,
    "exchanged": _exchange,
    "neighbours exchanged": _neighbours,
    "moved": _move,
}
_WAITS = {"forgotten": _forget, "all forgotten": _forget_all, "one more": _await_any, "another": _await_another}

MUTATIONS: dict[str, Mutation] = {
    **{f"{p}.{f} {s}": _integer(p, f, s) for p, fields in _INTEGERS.items() for f in fields for s in _STEPS},
    **{f"{p} {n}": _list(p, c) for p in (*_INTEGERS, "segments") for n, c in _LISTS.items()},
    **{f"{p}.waits {n}": _waits(p, c) for p in ("runs", "copies") for n, c in _WAITS.items()},
    **{f"memory.{f} {s:+}": _memory(f, s) for f in _MEMORY for s in (-4096, -256, -1, 1, 256)},
    "host slot initial or not": _field("host_slots", "initial", lambda item, plan, rng: not item.initial),
    "host slot of another": _field(
        "host_slots", "storage", lambda item, plan, rng: rng.choice(plan.residencies).storage
    ),
    "residency of another": _field(
        "residencies", "storage", lambda item, plan, rng: rng.choice(plan.residencies).storage
    ),
    "copy in the other direction": _field(
        "copies", "direction", lambda item, plan, rng: rng.choice(plan.copies).direction
    ),
    "run in another form": _field("runs", "form", lambda item, plan, rng: rng.choice(("lean", "../x", ""))),
    "two residencies exchange places": _two_places,
    "a segment's boundary moves": _boundary,
    "a segment becomes two": _split,
    "a copy starts earlier": _earlier_copy,
    "a storage moves": _moved_together,
    "another prediction": _predicted,
}
