"""What budgets, time limits and `deterministic` promise, on whole compilations."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from support import networks
from support.costs import made_up_costs
from support.random_steps import random_step

from planc.compiler.history import _known
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.store import write_costs
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.schedule.schedule import Schedule
from planc_solvers.baselines.starts import policy_schedules

NETWORKS = {"mlp": networks.mlp, "cnn": networks.cnn}


def _costs(imported: ImportedModel, kind: str) -> CostTable:
    costs = made_up_costs(imported.graph, scratch=1 << 10)
    return msgspec.structs.replace(costs, device=msgspec.structs.replace(costs.device, kind=kind))


def _job(name: str, kind: str = "cuda") -> CompileJob:
    imported = NETWORKS[name]()
    return CompileJob.of(imported, _costs(imported, kind))


def _needs(plan: Plan) -> int:
    return plan.memory.slab_bytes + plan.memory.scratch_bytes + plan.memory.session_bytes


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("solver", ["mip", "sqrt-n"])
def test_min_and_the_budget_that_a_refusal_names_are_feasible(name: str, kind: str, solver: str) -> None:
    job = _job(name, kind)
    with pytest.raises(InfeasibleBudgetError) as refused:
        job.compile(CompileOptions("1KiB", solver, 0.3))
    named = refused.value.minimum_budget_bytes
    # Another job: nothing is remembered but the number.
    again = _job(name, kind).compile(CompileOptions(str(named), solver, 0.3, seed=5)).plan
    assert _needs(again) <= named
    least = job.compile(CompileOptions("min", solver, 0.3)).plan
    assert _needs(least) <= least.memory.budget_bytes == named


def test_the_least_budget_does_not_depend_on_which_thread_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published policies propose schedules to the search before it begins: beside it, their moment would be chance."""
    imported = random_step(0)
    quick = CompileJob.of(imported, _costs(imported, "cpu")).budget_bytes("min")

    def slow(*arguments: Any) -> Iterator[Schedule]:
        for schedule in policy_schedules(*arguments):
            time.sleep(0.1)
            yield schedule

    monkeypatch.setattr("planc_solvers.mip.policy_schedules", slow)
    assert CompileJob.of(imported, _costs(imported, "cpu")).budget_bytes("min") == quick


def test_a_policy_that_asks_for_a_little_more_each_time_has_a_least_budget() -> None:
    """dtr says of each budget that one layer needs a little more: eight such steps do not come to where it has a plan."""
    imported = random_step(4)
    least = CompileJob.of(imported, _costs(imported, "cpu")).budget_bytes("min", "dtr")
    plan = CompileJob.of(imported, _costs(imported, "cpu")).compile(CompileOptions(f"{least}B", "dtr", 0.3)).plan
    assert _needs(plan) <= least


def test_min_leaves_nothing_between_it_and_what_a_layer_alone_needs_where_values_swap() -> None:
    job = _job("cnn")
    floor = job.compile(CompileOptions("100%", time_limit_s=0.3)).plan.memory.minimum_budget_bytes
    assert floor <= job.budget_bytes("min") <= 1.3 * floor


def test_a_larger_budget_never_predicts_a_slower_step() -> None:
    _known.clear()
    for name, seed in itertools.product(NETWORKS, range(2)):
        job = _job(name)
        low = job.budget_bytes("min")
        high = low + job.usual.liveness_peak_bytes
        steps = [
            job.compile(CompileOptions(str(low + (high - low) * part // 6), time_limit_s=0.2, seed=seed)).plan
            for part in range(7)
        ]
        times = [plan.prediction.step_ns for plan in steps]
        assert times == sorted(times, reverse=True)
        assert all(plan.certificate.lower_bound_ns <= plan.prediction.step_ns for plan in steps)


def test_a_deterministic_plan_depends_on_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    options = CompileOptions("90%", time_limit_s=0.5, deterministic=True)
    first = msgspec.json.encode(_job("cnn").compile(options).plan)
    jumps = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(jumps))
    monkeypatch.setattr(time, "perf_counter", lambda: next(jumps))
    assert msgspec.json.encode(_job("cnn").compile(options).plan) == first


_SCRIPT = """
import sys, msgspec
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
job = CompileRequest(sys.argv[1], costs=sys.argv[2]).resolve()
plan = job.compile(CompileOptions("90%", time_limit_s=0.5, deterministic=True)).plan
sys.stdout.buffer.write(msgspec.json.encode(plan))
"""


def test_a_deterministic_plan_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    imported = networks.cnn()
    model, costs = tmp_path / "train.onnx", tmp_path / "costs.json"
    onnx.save(imported.file.proto, model)
    resolved = CompileRequest(model, costs=_costs(imported, "cuda")).resolve()
    write_costs(resolved.costs, costs)
    plans = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(model), str(costs)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("0", "77")
    }
    assert len(plans) == 1
    assert plans.pop()
