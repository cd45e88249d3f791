"""The searches behind `planc compile`: for one step, or for each rank's. Ctrl-C ends them with the plans found so far."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planc.cli.console import Update, err, parts, progress
from planc.cli.interrupts import GracefulStop, Interrupted
from planc.errors import InfeasibleBudgetError, PlancError, SolverTimeoutError, UsageError
from planc.units import format_ns

if TYPE_CHECKING:
    from planc.compiler.job import CompileJob
    from planc.compiler.options import Compilation, CompileOptions

_AFTER_STOP_S = 2.0
"""Seconds for each search that had not begun when the user asked to stop: its plan is written too, or none is."""


def solve_each(
    jobs: Sequence["CompileJob"], titles: Sequence[str], options: "CompileOptions", stop: GracefulStop
) -> list["Compilation"]:
    """Compile one after the other, each within the time limit; from when the search of the plan that is wanted has begun,
    `stop` ends it with what it has. What fails is told with its title.

    Raises what `compile_within` raises, and Interrupted.
    """
    found = []
    with progress("solving") as update:
        for job, title, part in zip(jobs, titles, parts(update, titles), strict=True):
            limit = min(options.time_limit_s, _AFTER_STOP_S) if stop.asked else options.time_limit_s
            with _told_with(title):
                found.append(_solved(job, title, replace(options, time_limit_s=limit), stop, part))
    return found


def _solved(
    job: "CompileJob", title: str, options: "CompileOptions", stop: GracefulStop, update: Update
) -> "Compilation":  # fmt: skip
    from planc.compiler.knee import AUTO
    from planc.compiler.within import compile_within
    from planc.report.curve import print_curve
    from planc.schedule.solver import Progress

    searched = options.budget != AUTO and not options.deterministic
    seconds = max(1, round(options.time_limit_s))

    def on_curve(*curve: Any) -> None:
        nonlocal searched
        if title:
            err().print(title)
        print_curve(err(), *curve)
        searched = True

    def show(state: Progress) -> None:
        stop.armed = searched
        known = [f"plan {format_ns(state.incumbent_ns)}"] if state.incumbent_ns else []
        known += [f"bound {format_ns(state.bound_ns)}"] if state.bound_ns else []
        update(min(seconds, round(state.elapsed_s)), seconds, " ".join([*known, state.message]))

    try:
        return compile_within(job, replace(options, on_progress=show), on_curve)
    except (SolverTimeoutError, InfeasibleBudgetError):
        if stop.asked:
            raise Interrupted("no plan that fits had been found, and none was written") from None
        raise
    finally:
        stop.armed = False


@contextmanager
def _told_with(title: str) -> Iterator[None]:
    """Put the title, if there is one, in front of what an error says, unless that is of the command itself."""
    try:
        yield
    except PlancError as error:
        if title and not isinstance(error, UsageError):
            error.args = (f"{title}: {error}", *error.args[1:])
        raise
