"""Where a step is cut into segments, and how much scratch each of them needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from planc.lowering.blocks import Blocks
from planc.lowering.residencies import SlotMap, SlotResidency
from planc.planning.build import PlanningProblem
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import boundaries

_ROOMY_PERCENT = 90
"""Runs share a scratch region while that leaves this much of the load bound unfilled: a cut costs the host some
microseconds, a region larger than needed costs the packer freedom."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Runs [`first`, `end`) of one session, with the scratch (bytes) of the neediest of them, and their form."""

    first: int
    end: int
    scratch: int = 0
    form: str = ""


def segments_of(
    slots: SlotMap, planning: PlanningProblem, schedule: Schedule, residencies: Sequence[SlotResidency]
) -> list[Segment]:
    """Cut where a copy starts or is awaited, where the form changes and, where scratch takes bytes of the slab, where
    neighbours would hold more of it than memory has room for.

    The layers without a choice of form run in that of their segment.
    """
    cuts = {0, len(schedule.steps)} | boundaries(planning.problem, schedule) | _form_cuts(planning, schedule)
    if planning.layer_scratch:
        cuts |= _scratch_cuts(slots, planning, schedule, residencies, cuts)
    return [_segment(planning, schedule, first, end) for first, end in pairwise(sorted(cuts))]


def _segment(planning: PlanningProblem, schedule: Schedule, first: int, end: int) -> Segment:
    scratch = max(scratch_of(planning, schedule, run) for run in range(first, end))
    forms = (_form_of(planning, schedule, run) for run in range(first, end))
    return Segment(first, end, scratch, next((form for form in forms if form is not None), ""))


def _form_of(planning: PlanningProblem, schedule: Schedule, run: int) -> str | None:
    """The form that a run asks for, None where it runs in any."""
    names = planning.forms[schedule.steps[run]]
    return names[schedule.choice(run)] if names else None


def _form_cuts(planning: PlanningProblem, schedule: Schedule) -> set[int]:
    """Runs that ask for another form than the last one that asked."""
    asked = [
        (run, form) for run in range(len(schedule.steps)) if (form := _form_of(planning, schedule, run)) is not None
    ]
    return {run for (_, before), (run, form) in pairwise(asked) if before != form}


def scratch_of(planning: PlanningProblem, schedule: Schedule, run: int) -> int:
    """Bytes of scratch of a run in the slab."""
    if not planning.layer_scratch:
        return 0
    return planning.layer_scratch[schedule.steps[run]][schedule.choice(run)]


def _scratch_cuts(
    slots: SlotMap, planning: PlanningProblem, schedule: Schedule, residencies: Sequence[SlotResidency], cuts: set[int]
) -> set[int]:
    """More cuts, where the widest load of a segment and the scratch of its neediest run would not go together."""
    scratch = [scratch_of(planning, schedule, run) for run in range(len(schedule.steps))]
    load = _loads(slots, residencies)
    room = max((a + b for a, b in zip(load, scratch, strict=True)), default=0) * _ROOMY_PERCENT // 100
    found: set[int] = set()
    need = widest = 0
    for run, (own, held) in enumerate(zip(scratch, load, strict=True)):
        joined = max(need, own), max(widest, held)
        if run in cuts or (need != own and sum(joined) > room):
            found.add(run)
            joined = own, held
        need, widest = joined
    return found


def _loads(slots: SlotMap, residencies: Sequence[SlotResidency]) -> list[int]:
    """For each run the most bytes that residencies hold at one of its slots."""
    at_slot = Blocks(slots.graph, residencies).loads(slots.total).tolist()
    return [max(at_slot[a:b]) for a, b in pairwise(slots.begin)]
