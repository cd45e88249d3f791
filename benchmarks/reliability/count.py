"""What a campaign tells: named counts of what was tried and what failed, with the first failures."""

from collections.abc import Callable
from dataclasses import dataclass, field

_SHOWN = 5


@dataclass
class Count:
    """One figure. `notes` holds further numbers, `failures` says what the first failures were."""

    tried: int = 0
    failed: int = 0
    notes: dict[str, int | float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, failure: str | None) -> None:
        """One more try, which failed where there is a text."""
        self.tried += 1
        if failure is not None:
            self.failed += 1
            self.failures = [*self.failures, failure][:_SHOWN]

    def note(self, name: str, by: int | float = 1) -> None:
        """Add to a further number."""
        self.notes[name] = self.notes.get(name, 0) + by

    def as_json(self) -> dict[str, object]:
        """`tried`, `failed`, the notes, and failures if any."""
        return {"tried": self.tried, "failed": self.failed, **self.notes} | (
            {"failures": self.failures} if self.failures else {}
        )


Campaign = Callable[[int], dict[str, Count]]
"""Takes a scale, 1 for the short form and more for longer ones; gives its figures by name."""
