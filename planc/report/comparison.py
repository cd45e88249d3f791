"""Solvers against each other: the same training step compiled by each solver within each budget."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from planc.compiler.job import CompileJob
from planc.errors import UsageError
from planc.report.row import Row
from planc.report.trials import Effort, Trial, rows_of
from planc.schedule.solver import solver_names


@dataclass(frozen=True)
class Comparison:
    """All rows, by budget as given, then by solver; and what the step is without a budget."""

    rows: tuple[Row, ...]
    liveness_peak_bytes: int
    unconstrained_step_ns: int

    def as_json(self) -> dict[str, object]:
        """The comparison as one JSON object."""
        rows = [{**asdict(row), "prediction_error": row.prediction_error} for row in self.rows]
        return {**asdict(self), "rows": rows}


def parse_budgets(text: str) -> tuple[str, ...]:
    """`80%,50%,4GiB,min` → its parts. Raises UsageError for an empty list."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UsageError("--budgets: expected sizes with commas between them, for example 80%,50%,30%")
    return parts


def parse_solvers(text: str) -> tuple[str, ...]:
    """`all` or `mip,sqrt-n` → names of installed solvers. Raises UsageError naming one that is not."""
    known = solver_names()
    parts = known if text.strip() == "all" else tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in parts if part not in known]
    if unknown or not parts:
        name = unknown[0] if unknown else ""
        raise UsageError(f"unknown solver {name!r}: choose all, or some of {', '.join(known)}")
    return parts


def compare(
    job: CompileJob,
    budgets: Sequence[str],
    solvers: Sequence[str],
    effort: Effort | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Comparison:
    """Compile with every solver within every budget, verify, and run where wanted.

    Raises ModelError, DeviceError or UsageError as `compile_model`; an infeasible budget, a time-out and a policy that
    does not take on such a problem are rows.
    """
    usual = job.usual
    trials = [Trial(job.budget_bytes(budget), solver) for budget in budgets for solver in solvers]
    rows = rows_of(job, trials, effort or Effort(), progress)
    return Comparison(tuple(rows), usual.liveness_peak_bytes, usual.problem.base_duration_ns)
