"""The plan as one HTML file that needs nothing else: numbers, memory, engines, slab map, tensors, certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from planc.files import write_output
from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.printable import printable
from planc.report import scene
from planc.report.row import Row
from planc.report.scatter import ScatterScene, scatter_scene
from planc.report.summary import Summary, summarize
from planc.report.tensors import tensor_rows
from planc.report.view import PlanView, view_of
from planc.report.what_if import curve_scene, origin, what_if_facts
from planc.report.words import facts, percent, plural, proven
from planc.schedule.solver import OPTIMAL_GAP
from planc.units import NS_PER_MS, format_bytes, format_ns

_MAX_TENSORS = 400


@dataclass(frozen=True, slots=True)
class Headline:
    """A headline: a number, what it is, and what it is measured against. `mood` is a CSS class."""

    label: str
    value: str
    note: str
    mood: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A labelled bar whose length is `share` (0 to 1) of the longest."""

    label: str
    value: str
    share: float
    style: str


def write_page(
    path: Path, plan: Plan, graph: Graph | None = None, measured: Mapping[str, object] | None = None
) -> None:
    """Write the report page of a plan; with `graph` it shows the unplanned step too.

    `measured` is the JSON object that `planc run --json` prints. Raises PlanError when the graph is another model's or
    the plan names no layers, OutputError when the file cannot be written.
    """
    view = view_of(plan, graph)
    summary = summarize(view)
    memory = scene.memory_scene(view, graph)
    rows = tensor_rows(view, summary.decisions)
    page = _environment().get_template("plan.html.j2")
    text = page.render(
        title=plan.model.file or "plan",
        subtitle=f"{plural(plan.model.layers, 'layer')}, {plural(plan.model.operators, 'operator')} · "
        f"{plan.costs.table} · {plan.certificate.solver}",
        estimated=plan.costs.estimated,
        cards=_cards(view, summary, measured or {}),
        bars={"Step time": _time_bars(view, measured or {}), "Device memory": _memory_bars(view, measured or {})},
        what_if=what_if_facts(view, summary.peak, graph),
        curve=curve_scene(plan),
        curve_origin=origin(plan),
        memory=memory,
        memory_lines=_memory_lines(view, memory),
        memory_ticks=_ticks(memory.top),
        hover=_hover(view, memory),
        lanes=scene.lanes(view),
        stalls=scene.stall_boxes(view),
        slab=scene.slab_scene(view, {row.storage for row in rows[:_MAX_TENSORS]}),
        slab_ticks=_ticks(max(plan.memory.slab_bytes, 1)),
        rows=rows[:_MAX_TENSORS],
        rows_left_out=max(0, len(rows) - _MAX_TENSORS),
        keys={name: i for i, name in enumerate(dict.fromkeys(s.storage for s in view.residencies))},
        facts=facts(view, summary),
        certificate=_certificate(plan),
        width=scene.WIDTH,
        height=scene.HEIGHT,
    )
    _write(path, text)


def write_comparison_page(path: Path, rows: Sequence[Row], title: str, liveness_peak_bytes: int) -> None:
    """Write the comparison of solvers: overhead over budget, and the table. Raises OutputError as `write_page`."""
    page = _environment().get_template("comparison.html.j2")
    plot: ScatterScene = scatter_scene(rows, liveness_peak_bytes)
    shown = {
        "needs": any(row.minimum_budget_bytes for row in rows),
        "allocator": any(row.allocator_bytes is not None for row in rows),
        "measured": any(row.measured_step_ns is not None for row in rows),
    }
    _write(path, page.render(title=title, rows=rows, plot=plot, peak=liveness_peak_bytes, shown=shown))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("planc.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": format_bytes, "ns": format_ns, "percent": percent}
    return environment


def _shown(value: object) -> object:
    """Text of models and plans without controls that a page would obey."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _write(path: Path, text: str) -> None:
    write_output(path, text.encode(errors="backslashreplace"), "page")


def _cards(view: PlanView, summary: Summary, measured: Mapping[str, object]) -> list[Headline]:
    memory, prediction, proof = view.plan.memory, view.plan.prediction, view.plan.certificate
    share = memory.budget_bytes / memory.liveness_peak_bytes if memory.liveness_peak_bytes else 0.0
    cards = [
        Headline("budget", format_bytes(memory.budget_bytes), f"{percent(share)} of the unplanned peak"),
        Headline(
            "step", format_ns(prediction.step_ns), f"{percent(summary.overhead, signed=True)} on unlimited memory"
        ),
        Headline("proof", *_proof(proof.gap)),
        Headline(
            "swapped",
            format_bytes(summary.swapped_bytes),
            f"{percent(summary.hidden_share)} of copying hidden" if summary.copies.count else "no copies",
        ),
        Headline("recomputed", plural(summary.recomputed_layers, "layer"), format_ns(summary.recompute_ns)),
    ]
    if "bitwise_equal" in measured:
        equal = measured["bitwise_equal"] is True
        note = "equal to the unplanned run" if equal else f"{measured.get('differing_values')} values differ"
        cards.append(Headline("every bit", "equal" if equal else "differs", note, "good" if equal else "bad"))
    return cards


def _proof(gap: float) -> tuple[str, str]:
    """How good the plan is, in two parts."""
    return ("optimal", proven(gap)) if gap <= OPTIMAL_GAP else (f"within {percent(gap)}", "of the best possible")


def _time_bars(view: PlanView, measured: Mapping[str, object]) -> list[Bar]:
    prediction = view.plan.prediction
    times = [("unlimited memory", prediction.unconstrained_step_ns, "plain"), ("predicted", prediction.step_ns, "main")]
    for name, key, style in (
        ("measured, planned", "step_ms", "done"),
        ("measured, unplanned", "unplanned_step_ms", "plain"),
    ):
        value = measured.get(key)
        if isinstance(value, (int, float)):
            times.append((name, round(value * NS_PER_MS), style))
    return _bars([(name, value, format_ns(value), style) for name, value, style in times])


def _memory_bars(view: PlanView, measured: Mapping[str, object]) -> list[Bar]:
    memory = view.plan.memory
    sizes = [
        ("unplanned peak", memory.liveness_peak_bytes, "plain"),
        ("budget", memory.budget_bytes, "limit"),
        ("slab + scratch", memory.slab_bytes + memory.scratch_bytes, "main"),
        ("smallest feasible", memory.minimum_budget_bytes, "plain"),
    ]
    slab, scratch = measured.get("peak_slab_bytes"), measured.get("peak_scratch_bytes")
    if isinstance(slab, int) and isinstance(scratch, int):
        sizes.insert(3, ("measured", slab + scratch, "done"))
    return _bars([(name, value, format_bytes(value), style) for name, value, style in sizes])


def _bars(values: Sequence[tuple[str, int, str, str]]) -> list[Bar]:
    longest = max((value for _, value, _, _ in values), default=0) or 1
    return [Bar(name, text, value / longest, style) for name, value, text, style in values]


def _memory_lines(view: PlanView, memory: scene.MemoryScene) -> list[tuple[str, str, float]]:
    """(label, CSS class, height) of the horizontal lines in the memory picture."""
    sizes = {"budget": view.plan.memory.budget_bytes, "slab": view.plan.memory.slab_bytes}
    return [
        (f"{name} {format_bytes(size)}", name, scene.HEIGHT * (1 - size / memory.top)) for name, size in sizes.items()
    ]


def _ticks(top: int) -> list[tuple[str, float]]:
    """(label, share of the height from the top) of round sizes up to `top` bytes; about four."""
    unit = 1024 ** max(0, (top.bit_length() - 1) // 10)
    steps = [m * u for u in (unit // 1024 or 1, unit) for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    step = next((s for s in steps if top / s <= 5.5), steps[-1])
    return [(format_bytes(at).replace(".0 ", " "), 1 - at / top) for at in range(0, top, step)]


def _hover(view: PlanView, memory: scene.MemoryScene) -> dict[str, object]:
    """Numbers that the page's script shows under the pointer."""
    stacks = {name: {"x": stack.x, "values": stack.values} for name, stack in memory.stacks.items()}
    return {"step_ns": view.plan.prediction.step_ns, "width": scene.WIDTH, "stacks": stacks}


def _certificate(plan: Plan) -> list[tuple[str, str]]:
    proof = plan.certificate
    versions = ", ".join(f"{name} {version}" for name, version in sorted(plan.costs.versions.items()))
    return [
        ("solver", f"{proof.solver}, seed {proof.seed}, {proof.solve_s:.1f} s, limit {proof.time_limit_s:g} s a solve"),
        ("status", proof.status),
        ("lower bound", f"{format_ns(proof.lower_bound_ns)}, holds for {proof.bound_scope}"),
        ("gap", f"{percent(proof.gap)} of the predicted step"),
        ("model", f"{plan.model.file}, content hash {plan.model.hash}"),
        ("costs", f"{plan.costs.table}{', estimated from published figures' if plan.costs.estimated else ''}"),
        ("versions", f"planc {plan.planc}" + (f", {versions}" if versions else "")),
        ("compiled", plan.created),
    ]
