"""The terminal's reports: complete, within the width, plain without colour."""

import io
import re
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console
from support.networks import cnn
from support.plans import plan_of, random_plan

from planc.report.comparison import Comparison
from planc.report.memory import memory_over_time, peak_of
from planc.report.row import Row
from planc.report.tensor import life_of
from planc.report.text import print_comparison, print_measurement, print_peak, print_summary, print_tensor
from planc.report.view import view_of
from planc.report.words import percent, plural
from planc.schedule.schedule import Schedule
from planc.units import format_bytes, format_ns


def _console(width: int, colour: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=colour, highlight=False)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_runs_in_another_form_are_counted() -> None:
    plan = random_plan(cnn(), 1)
    runs = tuple(msgspec.structs.replace(run, form="lean" if i < 3 else "") for i, run in enumerate(plan.runs))
    texts = []
    for shown in (plan, msgspec.structs.replace(plan, runs=runs)):
        console = _console(100)
        print_summary(console, shown)
        texts.append(_text(console))
    assert "lean" not in texts[0]
    assert "3 runs in lean" in texts[1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_fits_the_width(width: int) -> None:
    console = _console(width)
    imported = cnn()
    plan = random_plan(imported, 1)
    view = view_of(plan, imported.graph)
    print_summary(console, plan)
    print_peak(console, view, peak_of(view))
    for storage in sorted({stay.storage for stay in view.residencies}):
        print_tensor(console, view, life_of(view, storage, imported.graph))
    assert max(len(line) for line in _text(console).splitlines()) <= width


def test_summary_says_what_matters() -> None:
    plan = random_plan(cnn(), 2)
    console = _console(120)
    print_summary(console, plan)
    text = re.sub(r"\s+", " ", _text(console))
    memory, prediction = plan.memory, plan.prediction
    for size in (memory.budget_bytes, memory.slab_bytes, memory.liveness_peak_bytes, memory.minimum_budget_bytes):
        assert format_bytes(size) in text
    assert memory.minimum_layer in text
    assert format_ns(prediction.step_ns) in text
    assert format_ns(prediction.unconstrained_step_ns) in text
    assert plural(len(plan.copies), "copy").replace("copys", "copies") in text
    assert "recompute" in text


def test_a_plan_without_decisions_says_so() -> None:
    console = _console(80)
    print_summary(console, plan_of(cnn(), Schedule(tuple(range(len(cnn().graph.layers))))))
    assert "nothing is copied or recomputed" in _text(console)
    assert "decisions" not in _text(console)


def test_no_colour_means_no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = _console(80, colour=True)
    print_summary(coloured, random_plan(cnn(), 1))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", _text(coloured))


def test_the_picture_reaches_the_top_only_where_memory_does() -> None:
    plan = plan_of(cnn(), Schedule(tuple(range(len(cnn().graph.layers)))))
    console = _console(80)
    print_summary(console, plan)
    rows = [line for line in _text(console).splitlines() if "▕" in line]
    full = memory_over_time(view_of(plan)).peak_bytes / plan.memory.slab_bytes
    assert ("█" in rows[0]) == (full == 1)
    assert rows[0].startswith(format_bytes(plan.memory.slab_bytes).rjust(len(rows[0].split("▕")[0])))
    bottom = rows[-1].split("▕")[1].rstrip()
    assert set(bottom) == {"█"}


def test_measurement_compares_with_prediction_and_unplanned_step() -> None:
    plan = random_plan(cnn(), 0)
    step = plan.prediction.step_ns / 1e6
    data = {
        "steps": 5, "step_ms": 1.1 * step, "unplanned_step_ms": 2.2 * step, "bitwise_equal": False,
        "differing_values": 1234, "peak_slab_bytes": 1 << 20, "peak_scratch_bytes": 1 << 10, "losses": [2.5, 1.25],
    }  # fmt: skip
    console = _console(100)
    print_measurement(console, plan, data)
    text = _text(console)
    for part in ("+10.0 %", "-50.0 %", "DIFFERENT", "1,234 values", "2.5000 → 1.2500", "1.0 MiB"):
        assert part in text


def test_comparison_marks_what_is_infeasible() -> None:
    rows = (
        Row("keep-all", 500, "infeasible", 0.1, minimum_budget_bytes=4096),
        Row("mip", 500, "optimal", 2.0, 1_500_000, 0.5, 0.0, 480, 64, 3, 400),
    )
    console = _console(80)
    print_comparison(console, Comparison(rows, 1000, 1_000_000))
    text = _text(console)
    assert "keep-all needs at least 4.0 KiB" in text
    assert re.search(r"50.0 %\s+keep-all\s+infeasible\s+0.1 s", text)
    assert re.search(r"500 B\s+mip\s+optimal\s+1.50 ms\s+\+50.0 %\s+64 B\s+3\s+2.0 s", text)
    assert max(map(len, text.splitlines())) <= 80


def test_words() -> None:
    assert [percent(x) for x in (0.0, 0.01234, 0.0999999, 0.5, 2.5)] == [
        "0.00 %",
        "1.23 %",
        "10.0 %",
        "50.0 %",
        "250 %",
    ]
    assert percent(0.5, signed=True) == "+50.0 %"
    assert [plural(1, "copy"), plural(2, "copy"), plural(2, "residency"), plural(1200, "layer")] == [
        "1 copy", "2 copies", "2 residencies", "1,200 layers",
    ]  # fmt: skip


def test_comparison_with_runs_fits_a_terminal_of_80_columns() -> None:
    row = Row("pytorch-knapsack", 500_000_000, "feasible", 12.5, 1_500_000_000, 0.5, 0.0, 480_000_000, 64, 3, 400)
    run = replace(row, measured_step_ns=1_600_000_000, bitwise_equal=True)
    console = _console(80)
    print_comparison(console, Comparison((row, run), 1_000_000_000, 1_000_000_000))
    text = _text(console)
    assert re.search(r"\+6.67 %\s+equal\s+12.5 s", text)
    assert "pytorch-knap" in text
    assert max(map(len, text.splitlines())) <= 80
