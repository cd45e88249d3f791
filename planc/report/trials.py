"""Trials of a comparison: one solver within one budget, compiled, verified and, on request, run.

Trials are independent: `jobs` of them run at a time, each in a process of its own with a copy of the job. What a trial
gave is kept by its content (model, costs, budget, solver, limits and planc's own code), so that a comparison that was
interrupted or gets another budget goes on where it was. Plans are measured one after the other, alone.
"""

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

import msgspec
from platformdirs import user_cache_path

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, OutputError, PolicyScopeError, SolverTimeoutError
from planc.files import atomic_write, read_file
from planc.plan.plan import Plan
from planc.report.row import Row
from planc.report.summary import summarize
from planc.report.view import view_of
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.schedule.solver import OPTIMAL_GAP, load_solver
from planc.units import format_bytes

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Effort:
    """What a comparison may take: seconds and seed of each solve, trials at a time, steps to run each plan (none if 0),
    and whether to use what earlier comparisons found."""

    time_limit_s: float = 60.0
    seed: int = 0
    jobs: int = 1
    run_steps: int = 0
    remember: bool = True


@dataclass(frozen=True)
class Trial:
    """One solver within one budget (bytes)."""

    budget_bytes: int
    solver: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.solver} in {format_bytes(self.budget_bytes)}"


def rows_of(
    job: CompileJob, trials: Sequence[Trial], effort: Effort, progress: Progress = lambda *_: None
) -> list[Row]:
    """A row for each trial, in their order. Raises DeviceError where plans are to be run on a device that is not
    here."""
    known = {trial: row for trial in dict.fromkeys(trials) if (row := _recalled(job, trial, effort)) is not None}
    missing = [trial for trial in dict.fromkeys(trials) if trial not in known]

    def tell(title: str) -> None:
        progress(len(known), len(set(trials)), title)

    for trial, row, plan in _compiled(job, missing, effort, tell):
        measured = _measured(job, plan, row, effort) if plan is not None and effort.run_steps else row
        _keep(job, trial, effort, measured)
        known[trial] = measured
        if effort.jobs > 1:
            tell(trial.title)
    return never_slower([known[trial] for trial in trials])


def never_slower(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with the fastest plan that its solver has within a budget as large or smaller: with more memory it is
    a plan as well. Trials are made in any order, and by processes that know nothing of each other."""
    return [min((row, *_within(row, rows)), key=_step) for row in rows]


def _within(row: Row, rows: Sequence[Row]) -> Iterator[Row]:
    """Rows of smaller budgets as what they say of `row`'s: of their plan, and of the bound that was proved for it."""
    for other in rows:
        step = other.predicted_step_ns
        if other.solver == row.solver and other.budget_bytes < row.budget_bytes and step is not None:
            bound = 0.0 if row.predicted_step_ns is None else row.predicted_step_ns * (1 - (row.gap or 0.0))
            gap = max(0.0, 1 - bound / step) if step else 0.0
            status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.FEASIBLE
            yield replace(other, budget_bytes=row.budget_bytes, gap=gap, status=str(status), solve_s=row.solve_s)


def _step(row: Row) -> float:
    return math.inf if row.predicted_step_ns is None else row.predicted_step_ns


def _compiled(
    job: CompileJob, trials: Sequence[Trial], effort: Effort, begun: Callable[[str], None]
) -> Iterator[tuple[Trial, Row, Plan | None]]:
    """The trials as they end; plans that are to be run come when all have ended, so that nothing else runs beside."""
    if effort.jobs <= 1 or len(trials) < 2:
        for trial in trials:
            begun(trial.title)
            yield (trial, *attempt(job, trial, effort))
        return
    ended = []
    workers = min(effort.jobs, len(trials))
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (pickle.dumps(job), effort)) as pool:
        waiting = {pool.submit(_attempt_in_worker, trial): trial for trial in trials}
        for future in as_completed(waiting):
            result = (waiting[future], *future.result())
            if effort.run_steps:
                ended.append(result)
                begun(result[0].title)
            else:
                yield result
    yield from ended


_worker: list[tuple[CompileJob, Effort]] = []


def _begin_worker(job: bytes, effort: Effort) -> None:
    _worker.append((pickle.loads(job), effort))  # our own parent made it


def _attempt_in_worker(trial: Trial) -> tuple[Row, Plan | None]:
    job, effort = _worker[0]
    row, plan = attempt(job, trial, effort)
    return row, plan if effort.run_steps else None


def attempt(job: CompileJob, trial: Trial, effort: Effort) -> tuple[Row, Plan | None]:
    """Compile one trial: its row, and the plan where there is one."""
    start = time.perf_counter()
    options = CompileOptions(f"{trial.budget_bytes}B", trial.solver, effort.time_limit_s, effort.seed)
    try:
        compilation = job.compile(options)
    except InfeasibleBudgetError as error:
        return _without_plan(trial, Status.INFEASIBLE, start, error, error.minimum_budget_bytes), None
    except SolverTimeoutError as error:
        return _without_plan(trial, Status.TIMEOUT, start, error), None
    except PolicyScopeError as error:
        return _without_plan(trial, Status.REFUSED, start, error), None
    plan = compilation.plan
    summary = summarize(view_of(plan, job.imported.graph))
    row = Row(
        solver=trial.solver,
        budget_bytes=trial.budget_bytes,
        status=str(plan.certificate.status),
        solve_s=plan.certificate.solve_s,
        predicted_step_ns=plan.prediction.step_ns,
        overhead=summary.overhead,
        gap=plan.certificate.gap,
        slab_bytes=plan.memory.slab_bytes,
        swapped_bytes=summary.swapped_bytes,
        recomputed_layers=summary.recomputed_layers,
        minimum_budget_bytes=plan.memory.minimum_budget_bytes,
        allocator_bytes=compilation.solution.allocator_bytes,
    )
    return row, plan


def _without_plan(trial: Trial, status: Status, start: float, error: Exception, need: int | None = None) -> Row:
    spent = time.perf_counter() - start
    return Row(
        trial.solver, trial.budget_bytes, str(status), solve_s=spent, minimum_budget_bytes=need, message=str(error)
    )


def _measured(job: CompileJob, plan: Plan, row: Row, effort: Effort) -> Row:
    """The row with what the plan takes when it runs, beside the unplanned graph, bit by bit."""
    with load(plan, job.imported, host_tier="ram", measure=True) as step:
        result = measure(step, effort.run_steps, effort.seed, compare=True)
    return replace(
        row,
        measured_step_ns=result.step_ns,
        measured_unplanned_ns=result.unplanned_step_ns,
        measured_peak_bytes=result.peak_slab_bytes + result.peak_scratch_bytes,
        bitwise_equal=result.bitwise_equal,
    )


def _keep(job: CompileJob, trial: Trial, effort: Effort, row: Row) -> None:
    """Remember a row; one that only time has decided is tried again. A folder that cannot be written forgets it."""
    if effort.remember and row.status != Status.TIMEOUT:
        path = _path(job, trial, effort)
        with suppress(OSError, OutputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, msgspec.json.encode(asdict(row)))


def _recalled(job: CompileJob, trial: Trial, effort: Effort) -> Row | None:
    if not effort.remember:
        return None
    try:
        return msgspec.json.decode(read_file(_path(job, trial, effort)), type=Row)
    except (OSError, msgspec.MsgspecError):
        return None


def _path(job: CompileJob, trial: Trial, effort: Effort) -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    folder = Path(given) if given else user_cache_path("planc")
    limits = (effort.time_limit_s, effort.seed, effort.run_steps)
    costs = hashlib.sha256(msgspec.json.encode(job.costs)).hexdigest()
    solver = type(load_solver(trial.solver)).__module__.partition(".")[0]
    content = (job.imported.graph.content_hash, costs, trial, limits, _code("planc"), _code(solver))
    return folder / "comparisons" / f"{hashlib.sha256(repr(content).encode()).hexdigest()[:32]}.json"


@cache
def _code(package: str) -> str:
    """Hash of a package's own source files."""
    found = hashlib.sha256()
    with resources.as_file(resources.files(package)) as folder:
        for path in sorted(folder.rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()
