"""Solvers against each other: the same training step compiled by each solver within each budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, SolverTimeoutError, UsageError
from planc.report.summary import summarize
from planc.report.view import view_of
from planc.schedule.solver import solver_names
from planc.units import format_bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One solver within one budget.

    `overhead` is relative to the step of unlimited memory. Without a plan, `status` is `infeasible` or `timeout`, the
    plan's numbers are None, and `minimum_budget_bytes` is the least that this solver is known to need.
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


@dataclass(frozen=True)
class Comparison:
    """All rows, by budget as given, then by solver; and what the step is without a budget."""

    rows: tuple[Row, ...]
    liveness_peak_bytes: int
    unconstrained_step_ns: int

    def as_json(self) -> dict[str, object]:
        """The comparison as one JSON object."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


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
    time_limit_s: float,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Comparison:
    """Compile with every solver within every budget.

    Raises ModelError, DeviceError or UsageError as `compile_model`; an infeasible budget or a time-out is a row.
    """
    usual = job.usual
    cases = [(job.budget_bytes(budget), solver) for budget in budgets for solver in solvers]
    rows = []
    for done, (budget, solver) in enumerate(cases):
        progress(done, len(cases), f"{solver} in {format_bytes(budget)}")
        options = CompileOptions(budget=str(budget), solver=solver, time_limit_s=time_limit_s, seed=seed)
        rows.append(_row(job, budget, options))
    return Comparison(tuple(rows), usual.liveness_peak_bytes, usual.problem.base_duration_ns)


def _row(job: CompileJob, budget: int, options: CompileOptions) -> Row:
    start = time.perf_counter()
    try:
        plan = job.compile(options).plan
    except InfeasibleBudgetError as error:
        spent = time.perf_counter() - start
        return Row(
            options.solver, budget, Status.INFEASIBLE, solve_s=spent, minimum_budget_bytes=error.minimum_budget_bytes
        )
    except SolverTimeoutError:
        return Row(options.solver, budget, Status.TIMEOUT, solve_s=time.perf_counter() - start)
    summary = summarize(view_of(plan, job.imported.graph))
    return Row(
        solver=options.solver,
        budget_bytes=budget,
        status=str(plan.certificate.status),
        predicted_step_ns=plan.prediction.step_ns,
        overhead=summary.overhead,
        gap=plan.certificate.gap,
        slab_bytes=plan.memory.slab_bytes,
        swapped_bytes=summary.swapped_bytes,
        recomputed_layers=summary.recomputed_layers,
        solve_s=plan.certificate.solve_s,
        minimum_budget_bytes=plan.memory.minimum_budget_bytes,
    )
