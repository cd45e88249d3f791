"""Hyper-parameters that must be the same on all ranks, compared beside the steps.

They may change with every step, and a meeting in each would cost more than some steps do. So every rank says now and then
which it used last; the others look up what they used in that step.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence

Settings = Mapping[str, tuple[float | None, ...]]
"""Hyper-parameters by name, one number per parameter group; None for a group without it."""

_CHANGES = 4096
"""Changes that are remembered: those of some seconds of the shortest steps."""


class SettingsUsed:
    """What this rank used in which step. One thread writes while another reads."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, dict[str, tuple[float | None, ...]]]] = deque(maxlen=_CHANGES)
        self.step = -1
        """The last step that was begun, counted over all steps that this process has loaded."""

    def use(self, settings: Settings) -> None:
        """Note what the step uses that begins."""
        if not self._changes or self._changes[-1][1] != settings:
            self._changes.append((self.step + 1, dict(settings)))
        self.step += 1

    @property
    def last(self) -> tuple[int, Settings] | None:
        """The last step with what it used, None before the first."""
        return (self.step, self._changes[-1][1]) if self._changes else None

    def used_in(self, step: int) -> Settings | None:
        """What that step used; None where it has not begun, or is forgotten."""
        changes = list(self._changes)
        at = bisect_right([first for first, _ in changes], step)
        return changes[at - 1][1] if at and step <= self.step else None

    def differing(self, step: int, theirs: Mapping[str, list[float | None]]) -> tuple[str, str, str] | None:
        """The first hyper-parameter of a step that another rank used with another value: its title, theirs, and ours."""
        ours = self.used_in(step)
        for name in ours or ():
            own, other = list((ours or {})[name]), theirs.get(name)
            if other != own:
                return title_of(name), shown(other or []), shown(own)
        return None


def title_of(name: str) -> str:
    """How messages name a hyper-parameter."""
    return f"hyper-parameter {name!r}"


def shown(values: Sequence[float | None]) -> str:
    """How messages show the values of a hyper-parameter."""
    return ", ".join("none" if value is None else f"{value:g}" for value in values) or "none"
