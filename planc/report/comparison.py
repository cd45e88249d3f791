"""Solvers against each other: the same training step compiled by each solver within each budget."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from planc.compiler.job import CompileJob
from planc.compiler.knee import AUTO, knee
from planc.errors import UsageError
from planc.plan.curve import never_rising
from planc.plan.plan import CurvePoint
from planc.report.row import Row
from planc.report.trials import Effort, Trial, rows_of
from planc.schedule.simulate import unlimited_ns
from planc.schedule.solver import load_solver, solver_names

_POINTS = 5


@dataclass(frozen=True)
class Comparison:
    """All rows, by budget as given, then by solver; and what the step is without a budget."""

    rows: tuple[Row, ...]
    liveness_peak_bytes: int
    unconstrained_step_ns: int

    @property
    def recommended(self) -> Row | None:
        """The fastest plan at the knee of the curve of step time over budgets, as `--budget auto` takes it; None where
        fewer than two budgets have a plan."""
        best: dict[int, Row] = {}
        for row in self.rows:
            if row.predicted_step_ns is not None:
                known = best.get(row.budget_bytes)
                if known is None or row.predicted_step_ns < (known.predicted_step_ns or 0):
                    best[row.budget_bytes] = row
        if len(best) < 2:
            return None
        points = never_rising(CurvePoint(budget, row.predicted_step_ns or 0) for budget, row in best.items())
        return best[knee(points).budget_bytes]

    def as_json(self) -> dict[str, object]:
        """The comparison as one JSON object."""
        rows = [{**asdict(row), "prediction_error": row.prediction_error} for row in self.rows]
        chosen = self.recommended
        point = None if chosen is None else {"solver": chosen.solver, "budget_bytes": chosen.budget_bytes}
        return {**asdict(self), "rows": rows, "recommended": point}


def parse_budgets(text: str) -> tuple[str, ...]:
    """`80%,50%,4GiB,min` → its parts. Raises UsageError for an empty list."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise UsageError("--budgets: expected sizes with commas between them, for example 80%,50%,30%")
    return parts


def parse_solvers(text: str) -> tuple[str, ...]:
    """`all` or `mip,sqrt-n` → names of installed solvers. Raises UsageError naming one that is not."""
    if text.strip() == "all":
        return solver_names()
    return known_solvers([part.strip() for part in text.split(",") if part.strip()])


def known_solvers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each of an installed solver or `module:Class` of one. Raises UsageError naming one that is neither."""
    known = solver_names()
    unknown = [name for name in names if name not in known and ":" not in name]
    if unknown or not names:
        name = unknown[0] if unknown else ""
        raise UsageError(f"unknown solver {name!r}: choose all, or some of {', '.join(known)}")
    for name in names:
        load_solver(name)
    return tuple(names)


def compare(
    job: CompileJob,
    budgets: Sequence[str] | None,
    solvers: Sequence[str],
    effort: Effort | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Comparison:
    """Compile with every solver within every budget, verify, and run where wanted.

    Without budgets there are five, evenly spaced from what the step needs unplanned down to the smallest feasible.
    Raises ModelError, DeviceError or UsageError as `compile_model`; an infeasible budget, a time-out and a policy that
    does not take on such a problem are rows.
    """
    if budgets is not None and AUTO in budgets:
        raise UsageError("a comparison takes sizes: `auto` is what it recommends")
    usual = job.usual
    sizes = _spread(job, solvers[0]) if budgets is None else [job.budget_bytes(budget) for budget in budgets]
    trials = [Trial(size, solver) for size in sizes for solver in solvers]
    rows = rows_of(job, trials, effort or Effort(), progress)
    return Comparison(tuple(rows), usual.liveness_peak_bytes, unlimited_ns(usual.problem))


def _spread(job: CompileJob, solver: str) -> list[int]:
    least, most = job.budget_bytes("min", solver), job.roomy_bytes
    return sorted({most - (most - least) * i // (_POINTS - 1) for i in range(_POINTS)}, reverse=True)
