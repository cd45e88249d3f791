"""Copies in as late and copies out as short as they can be for the same predicted step: room for the packer.

A solver fetches as early as memory allows, which fills the slab without making the step faster. What a copy holds
without need is given back only when packing misses, since an early fetch also hides what the prediction does not know.
Shorter copies start and end only where a segment ends anyhow: a new end of a segment would cost more than it gives.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace

from planc.enums import Direction
from planc.problem.problem import Problem
from planc.schedule.residency import ScheduleError, ValueResidency, residencies
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import Timeline, simulate

MARGINS = (16, 0)
"""Spare time before a fetched value is needed, in durations of its copy: what is tried, leanest last."""

CLOSE_PPM = 500
"""How much slower, in parts per million of the step, a schedule with shorter copies may be predicted."""

LOOSE_PPM = 40_000
"""The same where nothing else packs: where copies set the pace, shorter ones cost a step of Llama 2.7 %, and its packing
came to 1.005 instead of 1.08 of its load; giving up as much memory costs more than that."""


Slack = tuple[Schedule, Timeline, tuple[ValueResidency, ...]]
"""A schedule with its predicted times and its residencies."""


def slackened(
    problem: Problem,
    schedule: Schedule,
    timeline: Timeline,
    most_ppm: int = CLOSE_PPM,
    margins: Sequence[int] = MARGINS,
) -> Iterator[Slack]:
    """Variants of `schedule` whose copies hold their bytes shorter, none predicted slower by more than `most_ppm` parts per
    million of the step, one for each of the `margins` where they differ."""
    limit = timeline.step_ns + timeline.step_ns * most_ppm // 1_000_000
    known = [schedule]
    for margin in margins:
        shorter = _shortened(schedule, timeline, margin)
        if shorter in known:
            continue
        try:
            found = residencies(problem, shorter)
            times = simulate(problem, shorter, found)
        except ScheduleError:
            continue
        if times.step_ns <= limit:
            known.append(shorter)
            yield shorter, times, found


def _shortened(schedule: Schedule, timeline: Timeline, margin: int) -> Schedule:
    starts = [start for start, _ in timeline.steps] + [timeline.step_ns]
    ends = [0] + [end for _, end in timeline.steps]
    kept = _kept_boundaries(schedule)
    copies = list(schedule.copies)
    latest = timeline.step_ns
    for index in reversed(range(len(copies))):
        copy = copies[index]
        begin, end = timeline.copies[index]
        if copy.direction is Direction.IN:
            latest = max(begin, min(latest, starts[copy.stop] - margin * (end - begin)) - (end - begin))
            before = kept[bisect_right(kept, bisect_right(ends, latest) - 1) - 1]
            copies[index] = replace(copy, start=min(max(copy.start, before), copy.stop))
        else:
            after = kept[bisect_left(kept, bisect_left(starts, end))]
            copies[index] = replace(copy, stop=max(min(copy.stop, after), copy.start))
    return replace(schedule, copies=tuple(copies))


def _kept_boundaries(schedule: Schedule) -> list[int]:
    """Positions that residency boundaries whatever is shortened: where copies out start and copies in are awaited."""
    fixed = {copy.start if copy.direction is Direction.OUT else copy.stop for copy in schedule.copies}
    return sorted(fixed | {0, len(schedule.steps)})
