"""What an evaluation derives from a plan, as flat arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import Arrays, Bytes8, Ints, step_capacity

Floats = npt.NDArray[np.float64]

# Indices of `Workspace.tally` and `Workspace.total`.
GAPS, OUTS, INS, REPEATS, EXCHANGES = range(5)
MAKESPAN, EXCESS, COMPUTE, OUT_TOTAL, IN_TOTAL, ON_HOST, EXCHANGE_TOTAL = range(7)

KEPT, FETCHED, HOME = range(3)
"""Kinds of gap: an instance kept idle, one dropped and fetched, and the gap around the step's end."""

COMPUTE_ENGINE, OUT_ENGINE, IN_ENGINE, EXCHANGE_ENGINE = range(4)
"""Indices of the arrays of engines."""

ENGINES = 4

READY, STARTED, RELEASED, NEEDED, RETURNED, CLAIMED, EXCHANGED = range(7)
"""Indices of `Workspace.passed`, each the first copy not yet passed: copies out ready, started and released, copies in
needed (backward the last), copies out that something returning needs (the last), and backward the last copy in not yet
claimed; forward, the first exchange not yet awaited."""

NOW_NS, ENGINE_NS, HELD_BYTES, EXCHANGE_NS = range(4)
"""Indices of `Workspace.moment`: the time of compute, when the copy engine is free, bytes held for copies, when the
exchange engine is free."""

AWAITED_OUTS, AWAITED_INS, RELEASED_OUTS, AWAITED_EXCHANGES = range(4)
"""Indices of `Workspace.awaited`."""


@dataclass(frozen=True, eq=False)
class Workspace(Packed):
    """Everything an evaluation derives from a plan; positions are boundaries before steps."""

    first: Ints
    start: Ints
    end: Ints
    write: Ints
    host: Bytes8
    """1 where the host has the present version."""
    slot: Bytes8
    """1 where the value is on the host at any time."""
    out_of: Ints
    lasts: Ints
    """Duration of each step in its form."""
    memory: Floats
    leaving: Floats
    clock: Floats
    stall: Floats
    wait: Bytes8
    """1 at positions where copies start or are awaited."""
    gap_value: Ints
    gap_from: Ints
    gap_to: Ints
    gap_slot: Ints
    gap_kind: Ints
    repeats: Ints
    out_value: Ints
    out_start: Ints
    out_ready: Ints
    out_stop: Ints
    out_done: Floats
    out_order: Ints
    bucket: Ints
    chain: Ints
    in_value: Ints
    in_need: Ints
    in_stop: Ints
    """Where the copy is awaited: at its need, or before, together with another."""
    in_floor: Ints
    """Last access of the instance before: the copy must not replace it earlier."""
    in_start: Ints
    in_done: Floats
    in_after: Ints
    exchange_from: Ints
    """Position from which on each exchange may run: all that it reads is made."""
    exchange_at: Ints
    """The step that awaits it."""
    passed: Ints
    """How far placement has come: see `READY`."""
    moment: Floats
    """What a position of placement finds: see `NOW_NS`."""
    engine_items: Ints
    """How many items each engine has."""
    engine_next: Ints
    """The item that each engine runs, or runs next."""
    engine_left: Floats
    """Time left of that item, alone; negative while the engine is idle."""
    engine_slow: Floats
    """How many times as long the engine takes beside those that are busy."""
    awaited: Ints
    """Copies out and in that the next step waits for, copies out released before the next copy in, and exchanges that the
    next step waits for, from the first."""
    tally: Ints
    total: Floats


def workspace(a: Arrays) -> Workspace:
    """Room for the evaluation of any plan of the problem `a`."""
    sizes = {"task": a.duration.size, "value": a.size.size, "position": step_capacity(a) + 3}
    sizes["gap"] = 4 * a.reads.size + 2 * a.size.size + 64
    sizes["engine"] = ENGINES
    fields: dict[str, Any] = {name: np.zeros(sizes[of], kind) for of, kind, names in _FIELDS for name in names.split()}
    return Workspace(
        **fields,
        passed=np.zeros(7, np.int64),
        moment=np.zeros(4, np.float64),
        tally=np.zeros(5, np.int64),
        total=np.zeros(7, np.float64),
    )


_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("task", np.int64, "first"),
    ("value", np.int64, "start end write out_of"),
    ("value", np.uint8, "host slot"),
    ("position", np.float64, "memory leaving clock stall"),
    ("position", np.uint8, "wait"),
    ("position", np.int64, "repeats bucket lasts exchange_from exchange_at"),
    ("gap", np.int64, "gap_value gap_from gap_to gap_slot gap_kind"),
    ("gap", np.int64, "out_value out_start out_ready out_stop out_order chain"),
    ("gap", np.int64, "in_value in_need in_stop in_floor in_start in_after"),
    ("gap", np.float64, "out_done in_done"),
    ("engine", np.int64, "engine_items engine_next awaited"),
    ("engine", np.float64, "engine_left engine_slow"),
)
