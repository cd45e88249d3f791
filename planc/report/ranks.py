"""Plans of all ranks of a step, side by side: the step of all is that of the slowest."""

from collections.abc import Iterable, Sequence

from rich.console import Console

from planc.plan.plan import Plan
from planc.report.text import pairs, plain_table
from planc.report.words import percent
from planc.units import format_bytes, format_ns


def step_of_all(plans: Iterable[Plan]) -> int:
    """The predicted step (ns) of ranks that wait for each other."""
    return max(plan.prediction.step_ns for plan in plans)


def print_ranks(console: Console, plans: Sequence[Plan]) -> None:
    """Print the step of all and a row for each rank, in order, the slowest in bold."""
    costs, step = plans[0].costs, step_of_all(plans)
    slowest = [plan.prediction.step_ns == step for plan in plans]
    estimated = "; times are estimated, not measured" if costs.estimated else ""
    rows = [
        ("ranks", f"{len(plans)}, each with a plan of its own"),
        ("device", f"{costs.table} ({costs.kind}{estimated})"),
        ("step", f"{format_ns(step)} predicted, that of the slowest: rank {slowest.index(True)}"),
    ]
    console.print(pairs(rows))
    console.print()
    table = plain_table("")
    for name in ("rank", "budget", "slab", "step", "overhead", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    for rank, plan in enumerate(plans):
        table.add_row(str(rank), *_numbers(plan), style="bold" if slowest[rank] else "")
    console.print(table)


def _numbers(plan: Plan) -> list[str]:
    step, base = plan.prediction.step_ns, plan.prediction.unconstrained_step_ns
    return [
        format_bytes(plan.memory.budget_bytes),
        format_bytes(plan.memory.slab_bytes),
        format_ns(step),
        percent((step - base) / base if base else 0.0, signed=True),
        percent(plan.certificate.gap),
    ]
