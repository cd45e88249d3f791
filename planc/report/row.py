"""One line of a comparison."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One solver within one budget.

    `overhead` is relative to the step of unlimited memory. Without a plan, `status` is `infeasible`, `timeout` or
    `refused`, the plan's numbers are None, `message` says why, and `minimum_budget_bytes` is the least that this solver
    is known to need. `allocator_bytes` are what the policy's own allocator would take, where it has one. What was
    measured is None where the plan was not run; the unplanned step is that of the same graph in the same run.
    """

    solver: str
    budget_bytes: int
    status: str
    solve_s: float
    predicted_step_ns: int | None = None
    overhead: float | None = None
    gap: float | None = None
    slab_bytes: int | None = None
    swapped_bytes: int | None = None
    recomputed_layers: int | None = None
    minimum_budget_bytes: int | None = None
    allocator_bytes: int | None = None
    message: str = ""
    measured_step_ns: int | None = None
    measured_unplanned_ns: int | None = None
    measured_peak_bytes: int | None = None
    bitwise_equal: bool | None = None

    @property
    def prediction_error(self) -> float | None:
        """How far the measured step is from the predicted one, relative to that; None where it was not run."""
        if self.measured_step_ns is None or not self.predicted_step_ns:
            return None
        return self.measured_step_ns / self.predicted_step_ns - 1
