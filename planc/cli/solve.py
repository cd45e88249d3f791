"""`planc solve`: a bare graph instance → a sequence within a budget, with a proven bound."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, infeasible_as_json, out, print_json
from planc.cli.options import Deterministic, Gap, Json, Seed, TimeLimit, gap_of
from planc.errors import UsageError
from planc.units import format_bytes, parse_size

if TYPE_CHECKING:
    from planc.instances.instance import Bandwidths, Instance
    from planc.schedule.schedule import Schedule
    from planc.schedule.solver import Progress, Solution


def solve(
    instance: Path,
    budget: Annotated[str, typer.Option("--budget", help="8GiB, 60% of the given order's peak, or min.")],
    solver: Annotated[str, typer.Option("--solver", help="The policy; `planc doctor` lists them.")] = "mip",
    time_limit: TimeLimit = 60.0,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(help="1 gives the same answer for the same seed.", min=1)] = 2,
    gap: Gap = None,
    deterministic: Deterministic = False,
    d2h: Annotated[float | None, typer.Option("--d2h", help="Bytes per second to the host; costs are µs then.")] = None,
    h2d: Annotated[float | None, typer.Option("--h2d", help="Bytes per second from the host.")] = None,
    json: Json = False,
) -> None:
    """Solve INSTANCE, a JSON graph with costs and output sizes: recompute only, unless a link is given."""
    from planc.instances.instance import read_instance
    from planc.problem.bounds import minimum_budget
    from planc.schedule.solver import SolveOptions, load_solver
    from planc.schedule.solver import solve as run_solver

    read = read_instance(instance, _link(d2h, h2d))
    least, layer = minimum_budget(read.problem)
    problem = read.with_budget(least if budget == "min" else parse_size(budget, read.peak_bytes))
    options = SolveOptions(time_limit, seed, 1 if deterministic else workers, _Printer(read, json), gap=gap_of(gap))
    started = time.monotonic()
    with infeasible_as_json(json):
        solution = run_solver(load_solver(solver), problem, options)
    answer = answer_of(read, solution, time.monotonic() - started)
    answer |= {"budget_bytes": problem.budget_bytes, "minimum_budget_bytes": least, "minimum_budget_node": layer}
    if json:
        print_json(answer)
    else:
        out().print(
            f"{answer['status']}: objective {answer['objective']:g} (+{100 * float(str(answer['overhead'])):.3f} %), "
            f"bound {answer['bound']:g}, peak {format_bytes(solution.peak_bytes)}, {answer['solve_s']:.2f} s"
        )


def _link(d2h: float | None, h2d: float | None) -> "Bandwidths | None":
    from planc.instances.instance import Bandwidths

    if d2h is None and h2d is None:
        return None
    if not (d2h and h2d and d2h > 0 and h2d > 0):
        raise UsageError("a link needs both --d2h and --h2d, in bytes per second and above zero")
    return Bandwidths(d2h, h2d)


class _Printer:
    """Tells improvements on stderr where that is a terminal."""

    def __init__(self, read: "Instance", quiet: bool) -> None:
        self.console, self.scale, self.quiet = err(), read.ns_per_cost, quiet
        self.last: tuple[int | None, int | None] = (None, None)

    def __call__(self, progress: "Progress") -> None:
        news = (progress.incumbent_ns, progress.bound_ns)
        if self.quiet or not self.console.is_terminal or news == self.last:
            return
        self.last = news
        best, bound = ("-" if ns is None else f"{ns / self.scale:g}" for ns in news)
        self.console.print(f"{progress.elapsed_s:6.1f} s  best {best}  bound {bound}")


def answer_of(read: "Instance", solution: "Solution", seconds: float) -> dict[str, object]:
    """The JSON answer: times in the instance's cost unit; `free` lists what is released after each entry."""
    schedule, scale = solution.schedule, read.ns_per_cost
    ids = [node.id for node in read.nodes]
    objective: float = solution.timeline.step_ns / scale
    if not schedule.copies:
        objective = sum(_cost(read, schedule, position) for position in range(len(schedule.steps)))
    base = sum(node.cost for node in read.nodes)
    bound = min(solution.lower_bound_ns / scale, objective)
    frees = _releases(read, schedule)
    answer: dict[str, object] = {
        "status": str(solution.status),
        "objective": objective,
        "base_cost": base,
        "overhead": objective / base - 1 if base else 0.0,
        "bound": bound,
        "bound_scope": solution.bound_scope,
        "gap": solution.gap,
        "peak": solution.peak_bytes,
        "solve_s": seconds,
        "sequence": [
            {"node": ids[task], "free": [ids[v] for v in free]}
            for task, free in zip(schedule.steps, frees, strict=True)
        ],
    }
    if any(task.alternatives for task in read.problem.tasks):
        answer["forms"] = [_form(read, schedule, position) for position in range(len(schedule.steps))]
    if any(value.swappable for value in read.problem.values):
        answer["copies"] = [
            {"node": ids[c.value], "direction": str(c.direction), "start": c.start, "stop": c.stop}
            for c in schedule.copies
        ]
    return answer


def _form(read: "Instance", schedule: "Schedule", position: int) -> str:
    return read.problem.tasks[schedule.steps[position]].forms[schedule.choice(position)].name


def _cost(read: "Instance", schedule: "Schedule", position: int) -> float:
    """Cost of the step at `position`, in the instance's unit."""
    node, choice = read.nodes[schedule.steps[position]], schedule.choice(position)
    return node.alternatives[choice - 1].cost if choice else node.cost


def _releases(read: "Instance", schedule: "Schedule") -> list[list[int]]:
    """For each entry the values released after it."""
    from planc.schedule.residency import residencies

    frees: list[list[int]] = [[] for _ in schedule.steps]
    for residency in residencies(read.problem, schedule):
        made = residency.first - 1 if residency.produced_by_step is not None else residency.first
        frees[max(residency.end - 1, made)].append(residency.value)
    return frees
