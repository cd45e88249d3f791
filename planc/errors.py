"""Errors a user can meet, each with the exit code of the command line.

A user error says which file, node or tensor is meant, what was expected and what to do. `InternalError` is planc's own
fault: a broken invariant, never the user's input.
"""


class PlancError(Exception):
    """Base of every error that a user can act on."""

    exit_code = 3


class UsageError(PlancError):
    """The command or call itself is wrong: an unknown solver, a size that cannot be read."""

    exit_code = 2


class PolicyScopeError(UsageError):
    """The policy does not take on this problem: its layers have no kinds, or there are too many of them."""


class OutputError(UsageError):
    """What a command or call made cannot be written where it was asked to go."""


class ModelError(PlancError):
    """The model cannot be used: unreadable, invalid, or with an operator that planc refuses."""


class PlanError(PlancError):
    """The plan file cannot be used: unreadable, truncated, or made for another model."""


class FeedError(PlancError):
    """A value handed to a step is missing, of another shape or type, or unknown to the model."""


class InfeasibleBudgetError(PlancError):
    """No plan can fit; carries the smallest budget that can, the layer that sets it, and the refused budget if known."""

    exit_code = 4

    def __init__(self, message: str, minimum_budget_bytes: int, layer: str, budget_bytes: int | None = None) -> None:
        super().__init__(message)
        self.budget_bytes = budget_bytes
        self.minimum_budget_bytes = minimum_budget_bytes
        self.layer = layer


class SolverTimeoutError(PlancError):
    """The time limit passed before any plan was found."""

    exit_code = 5


class VerificationError(PlancError):
    """A plan does not compute its model within its budget."""

    exit_code = 6


class DeviceError(PlancError):
    """The device or the cost table does not match what the plan or the command needs."""

    exit_code = 7


class RankError(PlancError):
    """Another rank of the step failed, died, did not come in time, or has another plan; names the rank and the cause."""

    exit_code = 8


class PlancWarning(UserWarning):
    """Something that a user should know of and that stops nothing."""


class InternalError(Exception):
    """planc broke one of its own invariants; worth a bug report, never a user's fault."""
