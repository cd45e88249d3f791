"""The trace: Chrome's JSON format, with the plan's runs, copies, waits and memory in it."""

import json
from pathlib import Path

import pytest
from support.networks import cnn
from support.plans import random_plan

from planc.enums import Direction
from planc.errors import UsageError
from planc.report.memory import memory_over_time
from planc.report.trace import write_trace
from planc.report.view import view_of


@pytest.mark.parametrize("seed", range(3))
def test_trace_holds_the_prediction(tmp_path: Path, seed: int) -> None:
    plan = random_plan(cnn(), seed)
    view = view_of(plan)
    write_trace(tmp_path / "trace.json", plan)
    events = json.loads((tmp_path / "trace.json").read_bytes())["traceEvents"]
    threads = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(threads) == {"compute", "copies out", "copies in"}

    def spans(thread: str) -> list[tuple[str, int, int]]:
        found = [e for e in events if e["ph"] == "X" and e["tid"] == threads[thread]]
        return [(e["name"], round(1000 * e["ts"]), round(1000 * (e["ts"] + e["dur"]))) for e in found]

    assert spans("compute") == [(view.title(i), *span) for i, span in enumerate(plan.prediction.runs)]
    for thread, direction in (("copies out", Direction.OUT), ("copies in", Direction.IN)):
        assert spans(thread) == [
            (plan.residencies[copy.residency].storage, *span)
            for copy, span in zip(plan.copies, plan.prediction.copies, strict=True)
            if copy.direction is direction
        ]
    counters = [e for e in events if e["ph"] == "C"]
    assert max(sum(e["args"].values()) for e in counters) == memory_over_time(view).peak_bytes
    assert [e["ts"] for e in counters] == sorted(e["ts"] for e in counters)
    starts, ends = ({e["id"] for e in events if e["ph"] == ph} for ph in "sf")
    assert starts == ends == {copy for run in plan.runs for copy in run.waits}


def test_a_bad_target_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_trace(tmp_path / "missing" / "trace.json", random_plan(cnn(), 0))
