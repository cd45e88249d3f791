"""A plan on the terminal: summary, memory over time, the dearest decisions, one tensor's life, what is at the peak."""

from collections.abc import Mapping

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from planc.enums import Direction
from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.report.comparison import Comparison
from planc.report.decisions import Decision, Kind
from planc.report.memory import Peak, fullest_points, memory_over_time
from planc.report.row import Row
from planc.report.summary import summarize
from planc.report.tensor import TensorLife
from planc.report.view import PlanView, ResidencyView, view_of
from planc.report.what_if import what_if_line
from planc.report.words import ending_of, facts, origin_of, percent, plural
from planc.units import NS_PER_MS, format_bytes, format_ns

_ROWS = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"
_MAX_COLUMNS = 96
_DEAREST = 10
_AT_PEAK = 25


def print_summary(console: Console, plan: Plan, graph: Graph | None = None) -> None:
    """Print what the plan comes to. Raises PlanError when `graph` is another model's."""
    view = view_of(plan, graph)
    summary = summarize(view)
    console.print(pairs([*facts(view, summary), *what_if_line(plan)]))
    console.print()
    console.print(memory_picture(view, min(console.width, _MAX_COLUMNS)))
    if summary.decisions:
        console.print()
        console.print(decision_table(summary.decisions))


def print_measurement(console: Console, plan: Plan, data: Mapping[str, object]) -> None:
    """Print what `planc run --json` would, with the prediction beside it."""
    console.print(pairs(_measured_facts(plan, data)))


def print_tensor(console: Console, view: PlanView, life: TensorLife) -> None:
    """Print the life of one tensor."""
    console.print(tensor_view(view, life))


def print_peak(console: Console, view: PlanView, peak: Peak) -> None:
    """Print what is resident at the peak."""
    console.print(peak_view(view, peak))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one row for each solver and budget."""
    console.print(comparison_view(comparison))


def pairs(rows: list[tuple[str, str]]) -> Table:
    """Labels and values side by side."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def plain_table(title: str) -> Table:
    """An empty table as planc prints them."""
    return Table(
        title=title, pad_edge=False, show_edge=False, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )


def memory_picture(view: PlanView, width: int) -> RenderableType:
    """Resident bytes over predicted time in block characters; every column shows its fullest moment."""
    curve, step = memory_over_time(view), view.plan.prediction.step_ns
    top = max(view.plan.memory.slab_bytes, 1)
    label = len(format_bytes(top)) + 1
    columns = max(8, width - label - 1)
    edges = np.linspace(0, max(step, columns), columns + 1).astype(np.int64)
    heights = np.minimum(curve.total[fullest_points(curve, edges)] / top, 1.0) * _ROWS * 8
    lines = [Text("memory over predicted time, to the slab's height", style="bold")]
    for row in reversed(range(_ROWS)):
        marks = {_ROWS - 1: format_bytes(top), 0: "0 B"}
        line = Text(marks.get(row, "").rjust(label) + "▕", style="dim")
        line.append("".join(_BLOCKS[int(np.clip(h - 8 * row, 0, 8))] for h in np.ceil(heights)), style="not dim cyan")
        lines.append(line)
    end = format_ns(step)
    lines.append(Text(" " * (label + 1) + "0" + end.rjust(columns - 1), style="dim"))
    return Group(*lines)


def decision_table(decisions: tuple[Decision, ...]) -> Table:
    """The decisions that add most to the step, dearest first."""
    shown = decisions[:_DEAREST]
    rest = len(decisions) - len(shown)
    table = plain_table("decisions by cost" + (f" ({rest} more, see --json or --html)" if rest else ""))
    table.add_column("what", no_wrap=True)
    table.add_column("tensor or layer", overflow="fold", ratio=1)
    for name in ("size", "time", "hidden", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for d in shown:
        recomputed = d.kind is Kind.RECOMPUTE
        time = d.compute_ns if recomputed else d.copy_ns
        hidden = "" if recomputed else percent(d.hidden_ns / d.copy_ns if d.copy_ns else 1.0)
        cost = format_ns(d.cost_ns) if d.cost_ns else "none"
        table.add_row(d.kind.value, d.name, format_bytes(d.bytes), format_ns(time), hidden, cost)
    return table


def tensor_view(view: PlanView, life: TensorLife) -> RenderableType:
    """One tensor: what it is, and each of its residencies."""
    head = [("tensor", life.name), ("content", life.content)]
    if life.dtype is not None and life.shape is not None:
        head.append(("type", f"{life.dtype} {list(life.shape)}"))
    others = [t for t in life.tensors or (life.storage,) if t != life.name]
    if others:
        head.append(("shares with", ", ".join(others[:8]) + (f" and {len(others) - 8} more" if others[8:] else "")))
    head.append(("size", f"{format_bytes(life.residencies[0].bytes)} in the slab"))
    parts: list[RenderableType] = [pairs(head)]
    for position, residency in enumerate(life.residencies):
        readers = life.readers[position] if life.readers is not None else None
        parts += [
            Text(),
            Text(f"residency {position + 1} of {len(life.residencies)}", style="bold"),
            _residency_view(view, residency, readers),
        ]
    return Group(*parts)


def _residency_view(view: PlanView, residency: ResidencyView, readers: tuple[int, ...] | None) -> Table:
    """Where and when a residency is, who makes it, reads it and ends it, with the copies that touch it."""
    rows = [
        ("offset", f"{residency.offset:,}"),
        ("slots", f"{residency.begin} – {residency.end}"),
        ("predicted", f"{format_ns(residency.begin_ns)} – {format_ns(residency.end_ns)}"),
        ("from", origin_of(view, residency)),
    ]
    if readers is not None:
        rows.append(("read by", ", ".join(view.title(run) for run in readers) or "nobody"))
    rows.append(("until", ending_of(view, residency)))
    copies = (*([] if residency.brought_by is None else [residency.brought_by]), *residency.copied_out_by)
    return pairs([*rows, *((f"copy {index}", _copy_line(view, index)) for index in copies)])


def _copy_line(view: PlanView, index: int) -> str:
    """What a copy moves where, when it may begin, and when it is predicted to run."""
    copy, (start, end) = view.plan.copies[index], view.plan.prediction.copies[index]
    way = "to the host" if copy.direction is Direction.OUT else "from the host"
    after = f"after {view.title(copy.after - 1)}" if copy.after else "when the step begins"
    return f"{format_bytes(copy.bytes)} {way} {after}, predicted {format_ns(start)} – {format_ns(end)}"


def peak_view(view: PlanView, peak: Peak) -> RenderableType:
    """What is resident at the peak, by content and by residency."""
    sums: dict[str, int] = {}
    for residency in peak.residencies:
        sums[residency.content.value] = sums.get(residency.content.value, 0) + residency.bytes
    share = Table.grid(padding=(0, 2))
    for name, size in sorted(sums.items(), key=lambda item: -item[1]):
        share.add_row(Text(name, style="dim"), format_bytes(size).rjust(10), percent(size / peak.bytes).rjust(7))
    where = f"{view.title(peak.run)}, slot {peak.slot} of {view.slots}, {format_ns(view.slot_ns(peak.slot))}"
    rest = len(peak.residencies) - _AT_PEAK
    table = plain_table(
        plural(len(peak.residencies), "residency") + (f", {rest} smaller ones not shown" if rest > 0 else "")
    )
    table.add_column("size", justify="right", no_wrap=True)
    for name, ratio in (("tensor", 4), ("from", 3), ("until", 4)):
        table.add_column(name, overflow="fold", ratio=ratio)
    for residency in peak.residencies[:_AT_PEAK]:
        table.add_row(
            format_bytes(residency.bytes), residency.storage, origin_of(view, residency), ending_of(view, residency)
        )
    return Group(Text(f"peak of {format_bytes(peak.bytes)} in {where}", style="bold"), share, Text(), table)


def comparison_view(comparison: Comparison) -> RenderableType:
    """Solvers by budget, the fastest plan within each budget in bold; below, what solvers without a plan would need."""
    peak = comparison.liveness_peak_bytes
    table = plain_table(f"unlimited memory: {format_ns(comparison.unconstrained_step_ns)}, {format_bytes(peak)}")
    table.padding = (0, 1, 0, 0)
    run = any(row.measured_step_ns is not None for row in comparison.rows)
    table.add_column("budget", no_wrap=True)
    table.add_column("solver", overflow="fold", min_width=12)
    table.add_column("status", no_wrap=True)
    for name in ("step", "overhead", *(("run", "bits") if run else ("swapped", "again")), "solve"):
        table.add_column(name, justify="right", no_wrap=True)
    for budget in dict.fromkeys(row.budget_bytes for row in comparison.rows):
        rows = [row for row in comparison.rows if row.budget_bytes == budget]
        best = min((row.predicted_step_ns for row in rows if row.predicted_step_ns is not None), default=None)
        label = [percent(budget / peak if peak else 0.0), format_bytes(budget)]
        labels = ["\n".join(label)] if len(rows) == 1 else [*label, *[""] * (len(rows) - 2)]
        for cell, row in zip(labels, rows, strict=True):
            fastest = best is not None and row.predicted_step_ns == best
            values = [
                row.solver,
                row.status,
                *_outcome(row),
                *(_run_outcome(row) if run else _decided(row)),
                f"{row.solve_s:.1f} s",
            ]
            table.add_row(cell, *values, style="bold" if fastest else "", end_section=row is rows[-1])
    return Group(table, *_needs(comparison))


def _outcome(row: Row) -> list[str]:
    """Step and overhead of a plan."""
    if row.predicted_step_ns is None or row.overhead is None:
        return [""] * 2
    return [format_ns(row.predicted_step_ns), percent(row.overhead, signed=True)]


def _decided(row: Row) -> list[str]:
    """Swapped bytes and recomputed layers of a plan."""
    if row.overhead is None:
        return [""] * 2
    return [format_bytes(row.swapped_bytes or 0), str(row.recomputed_layers)]


def _run_outcome(row: Row) -> list[str]:
    """How far the measured step is from the prediction, and whether its bits are those of the unplanned one."""
    if row.prediction_error is None:
        return ["", ""]
    return [percent(row.prediction_error, signed=True), "equal" if row.bitwise_equal else "differ"]


def _needs(comparison: Comparison) -> list[Text]:
    """For each solver with an infeasible budget the most that it is known to need."""
    needs: dict[str, int] = {}
    for row in comparison.rows:
        if row.overhead is None and row.minimum_budget_bytes is not None:
            needs[row.solver] = max(needs.get(row.solver, 0), row.minimum_budget_bytes)
    return [Text(f"{solver} needs at least {format_bytes(size)}", style="dim") for solver, size in needs.items()]


def _resident_facts(data: Mapping[str, object]) -> list[tuple[str, str]]:
    """By how much processes grew, as the system counts it."""
    if "resident_growth_bytes" not in data:
        return []
    grown, predicted = (int(_number(data[f"{name}_growth_bytes"])) for name in ("resident", "predicted"))
    text = f"the process grew by {format_bytes(grown)}, predicted {format_bytes(predicted)}"
    if "unplanned_growth_bytes" in data:
        text += f"; unplanned by {format_bytes(int(_number(data['unplanned_growth_bytes'])))}"
    return [("resident", text)]


def _measured_facts(plan: Plan, data: Mapping[str, object]) -> list[tuple[str, str]]:
    step, predicted = _number(data["step_ms"]), plan.prediction.step_ns / NS_PER_MS
    off = f", {percent(step / predicted - 1, signed=True)} on the prediction" if predicted else ""
    rows = [("step", f"{step:.2f} ms, median of {plural(int(_number(data['steps'])), 'step')}{off}")]
    if "unplanned_step_ms" in data:
        unplanned = _number(data["unplanned_step_ms"])
        measured, hoped = (
            step / unplanned - 1,
            plan.prediction.step_ns / max(plan.prediction.unconstrained_step_ns, 1) - 1,
        )
        text = f"planned is {percent(measured, signed=True)}, predicted {percent(hoped, signed=True)}"
        rows.append(("unplanned", f"{unplanned:.2f} ms; {text}"))
        equal = "every bit of outputs and state agrees" if data["bitwise_equal"] else "DIFFERENT from the unplanned run"
        differing = "" if data["bitwise_equal"] else f": {int(_number(data['differing_values'])):,} values"
        rows.append(("compared", equal + differing))
    slab, scratch = int(_number(data["peak_slab_bytes"])), int(_number(data["peak_scratch_bytes"]))
    used = f"slab {format_bytes(slab)} + scratch {format_bytes(scratch)} = {format_bytes(slab + scratch)}"
    rows.append(("memory", f"{used}, budget {format_bytes(plan.memory.budget_bytes)}"))
    rows += _resident_facts(data)
    losses = data.get("losses")
    if isinstance(losses, list) and losses:
        rows.append(("loss", f"{losses[0]:.4f} → {losses[-1]:.4f}" if len(losses) > 1 else f"{losses[0]:.4f}"))
    return rows


def _number(value: object) -> float:
    """A number of a JSON result."""
    return float(value) if isinstance(value, (int, float)) else 0.0
