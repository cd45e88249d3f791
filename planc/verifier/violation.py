"""What the verifier reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a plan is wrong: its kind, where in the plan, and an explanation with the numbers."""

    kind: str
    where: str
    explanation: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.explanation}"
