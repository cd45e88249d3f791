"""What sets the peak, and what a tenth less or more memory would cost: read from the curve that the plan carries."""

from dataclasses import dataclass

from planc.graph.graph import Graph
from planc.plan.curve import tenth_less_and_more
from planc.plan.plan import Plan
from planc.report.memory import Peak, unplanned_bytes
from planc.report.view import PlanView
from planc.report.words import percent
from planc.units import format_bytes, format_ns

WIDTH, HEIGHT = 460.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 78.0, 34.0, 16.0, 34.0
_PARTS = 3
"""Contents of the peak that are named."""


@dataclass(frozen=True, slots=True)
class Change:
    """A budget (bytes) beside the plan's, the predicted step (ns) within it, if known, and what to say of it."""

    label: str
    budget_bytes: int
    step_ns: int | None
    text: str


@dataclass(frozen=True)
class CurveScene:
    """The curve as a picture: (x, y, tip, whether it is this plan) of each point, the line through them, and ticks."""

    points: tuple[tuple[float, float, str, bool], ...]
    path: str
    x_ticks: tuple[tuple[str, float], ...]
    y_ticks: tuple[tuple[str, float], ...]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def changes(plan: Plan) -> tuple[Change, ...]:
    """A tenth less and a tenth more memory than the plan has."""
    known = {point.budget_bytes: point.step_ns for point in plan.curve}
    budgets = zip(("10 % less", "10 % more"), tenth_less_and_more(plan.memory.budget_bytes), strict=True)
    return tuple(Change(label, size, known.get(size), _text(plan, size, known.get(size))) for label, size in budgets)


def _text(plan: Plan, budget: int, step: int | None) -> str:
    if step is not None:
        share = step / plan.prediction.step_ns - 1 if plan.prediction.step_ns else 0.0
        return f"{format_ns(step)}, {percent(share, signed=True)}" if round(share, 5) else "the same step"
    if budget < plan.memory.minimum_budget_bytes:
        return f"no plan: {plan.memory.minimum_layer} alone needs {format_bytes(plan.memory.minimum_budget_bytes)}"
    return "no plan was found in the time for it" if plan.curve else "not tried"


def what_if_facts(view: PlanView, peak: Peak, graph: Graph | None) -> list[tuple[str, str]]:
    """Label and sentence: what holds the peak, with and without a plan, the floor, and the two other budgets."""
    memory = view.plan.memory
    found = [("sets the peak", f"{view.title(peak.run)}: {format_bytes(peak.bytes)}, {_parts(peak)}")]
    if graph is not None:
        needs = unplanned_bytes(view, graph)
        most = max(range(len(needs)), key=needs.__getitem__)
        found.append(("without a plan", f"{view.title(most)}: {format_bytes(needs[most])}"))
    found.append(("no plan goes below", f"{format_bytes(memory.minimum_budget_bytes)}: {memory.minimum_layer}"))
    return found + [(f"{c.label} memory", f"{format_bytes(c.budget_bytes)}: {c.text}") for c in changes(view.plan)]


def what_if_line(plan: Plan) -> list[tuple[str, str]]:
    """The two other budgets in one line, where they were tried."""
    if not plan.curve:
        return []
    return [("what if", "; ".join(f"{c.label} memory: {c.text}" for c in changes(plan)))]


def _parts(peak: Peak) -> str:
    """The largest contents at the peak."""
    sizes: dict[str, int] = {}
    for residency in peak.residencies:
        sizes[residency.content.value] = sizes.get(residency.content.value, 0) + residency.bytes
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_PARTS]
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in largest)


def origin(plan: Plan) -> str:
    """Where the curve comes from."""
    if len(plan.curve) < 2:
        return (
            "Only this budget was tried. planc compile tries a tenth less and a tenth more where its time limit leaves "
            "room; planc compare draws a whole curve."
        )
    return (
        f"Predicted steps of {len(plan.curve)} budgets tried in the same compilation. Other budgets than this plan's "
        "had shorter searches: longer ones may find faster plans."
    )


def curve_scene(plan: Plan) -> CurveScene | None:
    """The picture of the curve; None where it has one point only."""
    points = plan.curve
    if len(points) < 2:
        return None
    low, high = points[0].budget_bytes, points[-1].budget_bytes
    fast, slow = points[-1].step_ns, points[0].step_ns

    def x(size: int) -> float:
        return _LEFT + (size - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(step: int) -> float:
        share = (step - fast) / (slow - fast) if slow > fast else 0.0
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    own = plan.memory.budget_bytes
    marks = tuple(
        (
            x(p.budget_bytes),
            y(p.step_ns),
            f"{format_ns(p.step_ns)} within {format_bytes(p.budget_bytes)}",
            p.budget_bytes == own,
        )
        for p in points
    )
    ticks = (
        sorted({low, own, high}) if high - low < 3 * min(own - low, high - own) or own in (low, high) else [low, high]
    )
    return CurveScene(
        points=marks,
        path="M" + "L".join(f"{px:.1f} {py:.1f}" for px, py, _, _ in marks),
        x_ticks=tuple((format_bytes(size), x(size)) for size in ticks),
        y_ticks=tuple((format_ns(step), y(step)) for step in sorted({fast, slow})),
    )
