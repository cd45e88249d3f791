"""Which tasks make values again that were dropped."""

from collections.abc import Collection, Iterable

from planc.problem.problem import Problem


def makers(
    problem: Problem, wanted: Iterable[int], dropped: Collection[int], present: Collection[int] = ()
) -> list[int]:
    """Tasks, in order, that make the `wanted` values, and those of their inputs that are dropped and not `present`."""
    found: set[int] = set()
    open_ = list(wanted)
    while open_:
        maker = problem.producer[open_.pop()]
        if maker is None or maker in found:
            continue
        found.add(maker)
        open_ += [v for v in problem.tasks[maker].reads if v in dropped and v not in present]
    return sorted(found)
