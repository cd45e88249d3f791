"""What the page and the terminal say of a tenth less or more memory, and of what sets the peak."""

import re
from pathlib import Path

import msgspec
import pytest
from support.networks import cnn
from support.plans import random_plan

from planc.graph.footprint import footprints
from planc.graph.liveness import live_bytes
from planc.plan.plan import CurvePoint, Plan
from planc.report.memory import peak_of
from planc.report.page import write_page
from planc.report.view import view_of
from planc.report.what_if import changes, curve_scene, what_if_facts, what_if_line
from planc.units import format_bytes


@pytest.fixture
def plan() -> Plan:
    return random_plan(cnn(), 1)


def with_curve(plan: Plan, *shares: tuple[float, float]) -> Plan:
    """A curve of (part of the budget, part of the step)."""
    budget, step = plan.memory.budget_bytes, plan.prediction.step_ns
    curve = tuple(CurvePoint(round(budget * b), round(step * s)) for b, s in shares)
    return msgspec.structs.replace(plan, curve=curve)


def tenths(plan: Plan, less: float, more: float) -> Plan:
    budget, step = plan.memory.budget_bytes, plan.prediction.step_ns
    points = ((budget * 9 // 10, less), (budget, 1.0), (budget * 11 // 10, more))
    return msgspec.structs.replace(plan, curve=tuple(CurvePoint(b, round(step * s)) for b, s in points))


def test_the_cost_of_a_tenth_is_told_as_a_part_of_this_plans_step(plan: Plan) -> None:
    less, more = changes(tenths(plan, 1.125, 0.96))
    assert less.text.endswith(", +12.5 %")
    assert more.text.endswith(", -4.00 %")
    ((label, line),) = what_if_line(tenths(plan, 1.125, 1.0))
    assert label == "what if"
    assert "10 % less memory: " in line
    assert line.endswith("10 % more memory: the same step")


def test_what_was_not_tried_or_not_found_is_told_apart(plan: Plan) -> None:
    plan = msgspec.structs.replace(plan, memory=msgspec.structs.replace(plan.memory, minimum_budget_bytes=1))
    assert {change.text for change in changes(plan)} == {"not tried"}
    assert what_if_line(plan) == []
    tried = with_curve(plan, (1.0, 1.0))
    assert {change.text for change in changes(tried)} == {"no plan was found in the time for it"}
    high = msgspec.structs.replace(plan.memory, minimum_budget_bytes=plan.memory.budget_bytes)
    text = changes(msgspec.structs.replace(tried, memory=high))[0].text
    assert text == f"no plan: {high.minimum_layer} alone needs {format_bytes(high.minimum_budget_bytes)}"


def test_the_layers_that_set_the_peaks_are_named(plan: Plan) -> None:
    view, graph = view_of(plan), cnn().graph
    facts = dict(what_if_facts(view, peak_of(view), graph))
    live = live_bytes(graph, footprints(graph))
    most = graph.layers[live.index(max(live))]
    assert facts["without a plan"] == f"{most.name} {most.phase}: {format_bytes(max(live))}"
    assert facts["sets the peak"].startswith(f"{view.title(peak_of(view).run)}: {format_bytes(peak_of(view).bytes)}, ")
    assert plan.memory.minimum_layer in facts["no plan goes below"]
    assert "without a plan" not in dict(what_if_facts(view, peak_of(view), None))


def test_the_picture_has_every_point_at_its_place(plan: Plan) -> None:
    drawn = curve_scene(with_curve(plan, (0.5, 2.0), (1.0, 1.0), (1.5, 0.5)))
    assert drawn is not None
    xs, ys, _, own = zip(*drawn.points, strict=True)
    assert own == (False, True, False)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], rel=1e-4)
    assert (ys[1] - ys[0]) / (ys[2] - ys[1]) == pytest.approx(2.0, rel=1e-4)
    assert curve_scene(with_curve(plan, (1.0, 1.0))) is None
    assert curve_scene(plan) is None


def test_the_page_shows_the_curve_where_there_is_one(tmp_path: Path, plan: Plan) -> None:
    for drawn, made in ((False, plan), (True, tenths(plan, 1.125, 0.96))):
        write_page(tmp_path / "page.html", made, cnn().graph)
        text = (tmp_path / "page.html").read_text()
        assert ('<svg class="curve"' in text) is drawn
        assert ("Only this budget was tried" in text) is not drawn
        assert len(re.findall(r"<circle", text)) == (3 if drawn else 0)
