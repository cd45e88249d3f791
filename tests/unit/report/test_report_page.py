"""The page: self-contained, escaped, complete, small; the numbers in it are the plan's."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from support.networks import cnn
from support.plans import random_plan

from planc.errors import PlanError, UsageError
from planc.plan.plan import LayerInfo, Plan, Residency
from planc.report import scene
from planc.report.memory import memory_over_slots, memory_over_time, unplanned_bytes
from planc.report.page import write_comparison_page, write_page
from planc.report.row import Row
from planc.report.tensors import tensor_rows
from planc.report.view import view_of
from planc.units import format_bytes

VOID = {"meta", "input", "rect", "path", "line", "circle", "br", "link", "img"}


class Page(HTMLParser):
    """Collects elements with their attributes, checks nesting, keeps text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.data = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and self.elements[-1][1].get("type") == "application/json":
            self.data += data
        elif self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def _page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def plan() -> Plan:
    return random_plan(cnn(), 1)


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "page.html"
    write_page(path, plan, cnn().graph)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[a-z]", text.replace("http://www.w3.org", ""))
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest", text)
    for _, attributes in _page(path).elements:
        assert "src" not in attributes
        assert "href" not in attributes


def test_every_run_copy_stay_and_tensor_is_there(tmp_path: Path, plan: Plan) -> None:
    write_page(tmp_path / "page.html", plan)
    page, view = _page(tmp_path / "page.html"), view_of(plan)
    told = [a["data-t"] for a in page.all("rect")]
    stood = [t for t in told if t.startswith("compute stands still\n")]
    assert len(told) == len(plan.runs) + len(plan.copies) + len(plan.residencies) + len(stood)
    assert 0 < len(stood) <= len(plan.runs)
    for run in range(len(plan.runs)):
        assert any(t.startswith(view.title(run) + "\n") and f"run {run}," in t for t in told)
    for index, copy in enumerate(plan.copies):
        storage = plan.residencies[copy.residency].storage
        assert any(t.startswith(storage + "\n") and f"copy {index} " in t for t in told)
    rows = page.all("tr")
    keys = {a["data-s"] for a in page.all("rect") if "data-s" in a}
    assert [a["data-s"] in keys for a in rows if "data-s" in a] == [True] * len(tensor_rows(view))
    for size in (plan.memory.budget_bytes, plan.memory.slab_bytes, plan.memory.minimum_budget_bytes):
        assert format_bytes(size) in page.text
    assert plan.model.hash in page.text
    assert plan.certificate.bound_scope in page.text


def test_slab_boxes_lie_where_the_residencies_do(plan: Plan) -> None:
    view = view_of(plan)
    boxes = {(b.tip.split("\n")[0], round(b.x, 6), round(b.y, 6)): b for b in scene.slab_scene(view).boxes}
    for stay in view.residencies:
        x = 1000 * stay.begin_ns / plan.prediction.step_ns
        y = 300 * (1 - (stay.offset + stay.bytes) / plan.memory.slab_bytes)
        box = boxes[stay.storage, round(x, 6), round(y, 6)]
        assert box.height == pytest.approx(300 * stay.bytes / plan.memory.slab_bytes)
        assert 0 <= box.x <= box.x + box.width <= 1000 + 1e-6
        assert -1e-6 <= box.y <= box.y + box.height <= 300 + 1e-6


def test_hover_numbers_have_the_plans_peak(tmp_path: Path, plan: Plan) -> None:
    write_page(tmp_path / "page.html", plan)
    data = json.loads(_page(tmp_path / "page.html").data)
    peak = memory_over_slots(view_of(plan)).peak_bytes
    for stack in data["stacks"].values():
        totals = [sum(values) for values in zip(*stack["values"].values(), strict=True)]
        assert max(totals) == peak
        assert len(totals) == len(stack["x"])
        assert stack["x"] == sorted(stack["x"])


def _heights(path: str, top: int) -> list[int]:
    return [round((1 - float(y) / scene.HEIGHT) * top) for y in re.findall(r"V([\d.]+)", path)]


def test_stacked_paths_end_at_the_curves_total(plan: Plan) -> None:
    view = view_of(plan)
    drawn = scene.memory_scene(view, None)
    curve = memory_over_time(view)
    highest = _heights(drawn.stacks["content"].bands[0].path, drawn.top)[:-1]
    assert highest == pytest.approx(curve.total.tolist(), abs=drawn.top * 1e-4)


def test_the_ghost_line_needs_the_graph(plan: Plan) -> None:
    view = view_of(plan)
    assert scene.memory_scene(view, None).ghost is None
    drawn = scene.memory_scene(view, cnn().graph)
    assert drawn.ghost_peak == max(unplanned_bytes(view, cnn().graph))
    assert drawn.ghost is not None
    assert max(_heights(drawn.ghost, drawn.top)) == pytest.approx(drawn.ghost_peak, abs=drawn.top * 1e-4)
    assert drawn.top >= drawn.ghost_peak


def test_names_are_escaped(tmp_path: Path, plan: Plan) -> None:
    evil = "</script><script>alert('x')</script>\"<b>"
    layers = tuple(LayerInfo(evil, evil, x.phase, x.operators) for x in plan.layers)
    stays = tuple(Residency(f"{evil}{s.storage}", s.offset, s.bytes, s.begin, s.end) for s in plan.residencies)
    model = msgspec.structs.replace(plan.model, file=evil)
    write_page(
        tmp_path / "page.html", msgspec.structs.replace(plan, layers=layers, residencies=stays, model=model, inputs={})
    )
    page = _page(tmp_path / "page.html")
    assert len(page.all("script")) == 2
    assert page.all("b", **{}) == [{} for _ in page.all("b")]
    assert "alert" in page.data
    assert not [a for a in page.all("script") if a not in ({}, {"id": "data", "type": "application/json"})]


def test_measurements_are_shown(tmp_path: Path, plan: Plan) -> None:
    measured = {
        "steps": 3, "step_ms": 12.5, "unplanned_step_ms": 10.25, "bitwise_equal": True, "differing_values": 0,
        "peak_slab_bytes": 5 << 20, "peak_scratch_bytes": 1 << 20, "losses": [1.0],
    }  # fmt: skip
    write_page(tmp_path / "page.html", plan, None, measured)
    text = _page(tmp_path / "page.html").text
    for part in ("12.50 ms", "10.25 ms", "6.0 MiB", "equal to the unplanned run"):
        assert part in text
    write_page(tmp_path / "page.html", plan, None, {**measured, "bitwise_equal": False, "differing_values": 77})
    assert "77 values differ" in _page(tmp_path / "page.html").text


def _repeated(plan: Plan, times: int) -> Plan:
    """The plan's step executed `times` times in a row, with layers and tensors of its own each time."""
    slots = sum(plan.layers[run.layer].operators for run in plan.runs)
    step, layers = plan.prediction.step_ns, len(plan.layers)
    runs, stays, spans = [], [], []
    for i in range(times):
        runs += [msgspec.structs.replace(run, layer=run.layer + i * layers, waits=()) for run in plan.runs]
        stays += [
            Residency(f"{i}/{s.storage}", s.offset, s.bytes, s.begin + i * slots, s.end + i * slots)
            for s in plan.residencies
        ]
        spans += [(a + i * step, b + i * step) for a, b in plan.prediction.runs]
    names = [LayerInfo(f"{i}/{x.name}", x.kind, x.phase, x.operators) for i in range(times) for x in plan.layers]
    prediction = msgspec.structs.replace(plan.prediction, step_ns=step * times, runs=tuple(spans), copies=())
    return msgspec.structs.replace(
        plan, runs=tuple(runs), copies=(), residencies=tuple(stays), layers=tuple(names), prediction=prediction
    )


def test_ten_thousand_runs_stay_a_small_page(tmp_path: Path) -> None:
    plan = random_plan(cnn(), 0)
    large = _repeated(plan, 10_000 // len(plan.runs) + 1)
    assert len(large.runs) >= 10_000
    write_page(tmp_path / "page.html", large)
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    page = _page(tmp_path / "page.html")
    data = json.loads(page.data)
    totals = [sum(values) for values in zip(*data["stacks"]["content"]["values"].values(), strict=True)]
    assert max(totals) == memory_over_slots(view_of(large)).peak_bytes
    busy = sum(float(a["width"]) for a in page.all("rect") if "data-s" not in a)
    compute = sum(b - a for a, b in plan.prediction.runs) / plan.prediction.step_ns
    assert busy == pytest.approx(1000, abs=1000 * (1.001 - compute) + 5)
    assert re.search(r"the [\d,]+ smallest residencies are not drawn", page.text)


def test_bad_targets_are_usage_errors(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(tmp_path / "missing" / "page.html", plan)
    with pytest.raises(PlanError):
        write_page(tmp_path / "page.html", msgspec.structs.replace(plan, layers=()))
    assert not (tmp_path / "page.html").exists()


def test_comparison_page_plots_every_row(tmp_path: Path) -> None:
    rows = [
        Row("mip", 800, "optimal", 1.0, 1000, 0.0, 0.0, 700, 0, 0, 300),
        Row("mip", 500, "feasible", 1.0, 1100, 0.1, 0.01, 490, 64, 2, 300),
        Row("keep-all", 800, "infeasible", 0.0, minimum_budget_bytes=1000),
        Row("keep-all", 500, "timeout", 0.0),
        Row("<odd>", 500, "feasible", 1.0, 9000, 8.0, 0.5, 490, 64, 2, 300),
    ]
    write_comparison_page(tmp_path / "page.html", rows, "train.onnx", 1000)
    page = _page(tmp_path / "page.html")
    assert len(page.all("circle")) == 3
    assert len(page.all("path", **{"class": "missed"})) == 2
    tight, roomy, slow = ((float(a["cx"]), float(a["cy"])) for a in page.all("circle"))
    assert tight[0] == slow[0] < roomy[0]
    assert slow[1] < tight[1] < roomy[1]
    for text in ("keep-all", "<odd>", "+10.0 %", "infeasible", "timeout", "80.0 %"):
        assert text in page.text
