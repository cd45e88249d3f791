"""Plans made earlier in this process, so that a larger budget is never told a slower step than a smaller one was."""

from collections import OrderedDict
from dataclasses import dataclass

from planc.compiler.sessions import Found
from planc.planning.build import PlanningProblem

_STEPS = 4
"""Training steps remembered, each with its costs and solver."""

_PLANS = 12
"""Plans remembered of each: of more, those that need most memory are forgotten."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """A plan, the problem that it is of, and the budget (bytes) that it needs."""

    planning: PlanningProblem
    found: Found
    need: int

    @property
    def step_ns(self) -> int:
        """The predicted step."""
        return self.found.solution.timeline.step_ns


_known: OrderedDict[Key, list[Known]] = OrderedDict()


def fastest_within(key: Key, budget: int, new: Known) -> Known:
    """`new`, or an earlier plan of the same step that fits `budget` bytes and is faster; `new` is remembered."""
    plans = _known.setdefault(key, [])
    _known.move_to_end(key)
    best = min(
        (known for known in [new, *plans] if known is new or known.need <= budget), key=lambda known: known.step_ns
    )
    plans.append(new)
    # What another one beats in bytes and in time is of no use.
    plans.sort(key=lambda known: (known.need, known.step_ns))
    kept = list[Known]()
    for known in plans:
        if not kept or known.step_ns < kept[-1].step_ns:
            kept.append(known)
    _known[key] = kept[:_PLANS]
    while len(_known) > _STEPS:
        _known.popitem(last=False)
    return best
