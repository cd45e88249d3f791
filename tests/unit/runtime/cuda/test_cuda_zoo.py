"""Networks of the zoo in their forms for CUDA, planned and executed by the real provider on the emulated card."""

import gc
from functools import cache

import msgspec
import pytest
from cuda_emulator.emulator import Emulator
from support.costs import made_up_costs
from support.emulated import card, expected, expected_rounds, open_step, run_steps
from support.zoo_networks import MOMENTUM, small_forward

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.errors import DeviceError
from planc.graph.grouped import is_group
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.planning.build import build_problem
from planc.runtime.own_kernels import kernel_versions
from planc.training import Optimizer, differentiate

__all__ = ["card"]

OPTIMIZERS = {"gpt2": Optimizer("adamw", learning_rate=0.01)}
PLANS = [
    ("resnet18", "vdnn-all", 100),
    ("resnet18", "mip", 50),
    ("gpt2", "vdnn-all", 60),
    ("gpt2", "mip", 50),
    ("bert_base", "mip", 50),
]
SCHEDULES = 12
SCRATCH = 2 << 20  # what other plans of the process reserve
ARENA_SLACK = 4096


@cache
def _imported(name: str, fused: bool = False) -> ImportedModel:
    built = small_forward(name)
    optimizer = OPTIMIZERS.get(name, MOMENTUM)
    return import_model(
        differentiate(built.model, loss=built.loss, optimizer=optimizer, parameters=built.parameters, device="cuda"),
        fused=fused,
    )


def _plan(imported: ImportedModel, solver: str, percent: int) -> Plan:
    """A plan within a share of the liveness peak, its scratch beside the slab."""
    made_up = made_up_costs(imported.graph, SCRATCH)
    versions = kernel_versions(imported, "cuda")
    device = msgspec.structs.replace(made_up.device, kind="cuda", versions=versions)
    costs = msgspec.structs.replace(made_up, device=device)
    peak = build_problem(imported.graph, costs).liveness_peak_bytes
    budget = peak * percent // 100 + SCRATCH + ARENA_SLACK
    return compile_model(imported, costs, CompileOptions(str(budget), solver, time_limit_s=1.0)).plan


@pytest.mark.parametrize(("name", "solver", "percent"), PLANS)
def test_planned_networks_compute_the_plain_graph_without_a_race(
    card: Emulator, name: str, solver: str, percent: int
) -> None:
    imported = _imported(name)
    plan = _plan(imported, solver, percent)
    want = expected_rounds(card, imported, 2, SCHEDULES)
    card.reset()
    for replay in (False, True):
        with open_step(card, imported, plan, replay) as step:
            assert card.peak_bytes == plan.memory.slab_bytes + plan.memory.scratch_bytes
            start = step.state()
            for schedule in range(SCHEDULES):
                card.reset(schedule)
                step.set_state(start)
                assert run_steps(step, imported, 2) == want[schedule]
                assert card.problems == []
        assert card.live == 0


def test_groups_of_updates_run_without_a_race(card: Emulator) -> None:
    imported = _imported("gpt2", fused=True)
    assert any(is_group(op.op_type) for op in imported.graph.ops)
    plan = _plan(imported, "mip", 50)
    want = expected(card, imported, 2)
    for replay in (False, True):
        card.reset(int(replay))
        with open_step(card, imported, plan, replay) as step:
            assert run_steps(step, imported, 2) == want
            assert card.problems == []


def test_a_step_with_counted_dropout_is_replayed_and_draws_anew(card: Emulator) -> None:
    imported = _imported("bert_base")
    plan = _plan(imported, "mip", 50)
    want = expected(card, imported, 4)
    card.reset()
    with open_step(card, imported, plan, replay=True) as step:
        assert run_steps(step, imported, 4) == want
        assert step.device.capture_refused == ""
        assert card.calls("launch") > 0
    assert card.problems == []


def test_workspaces_that_grow_within_a_segment_fit_in_the_largest(card: Emulator) -> None:
    imported = _imported("resnet18")
    plan = _plan(imported, "keep-all", 100)
    assert len(plan.segments) == 1
    want = expected(card, imported, 1)
    card.workspace(SCRATCH - ARENA_SLACK, steps=7)
    with open_step(card, imported, plan, replay=False) as step:
        assert run_steps(step, imported, 1) == want
        assert SCRATCH // 2 < step.device.peak_slab_scratch_bytes <= plan.memory.slab_scratch_bytes


def test_an_operator_that_wants_more_scratch_than_was_planned_is_told(card: Emulator) -> None:
    imported = _imported("resnet18")
    plan = _plan(imported, "keep-all", 100)
    card.workspace(2 * SCRATCH)
    with open_step(card, imported, plan, replay=False) as step, pytest.raises(DeviceError, match="profile again"):
        run_steps(step, imported, 1)


def test_the_provider_gives_its_memory_back_after_the_first_step(card: Emulator) -> None:
    imported = _imported("resnet18")
    plan = _plan(imported, "vdnn-all", 100)
    held = []
    for _ in range(4):
        with open_step(card, imported, plan) as step:
            run_steps(step, imported, 1)
            sessions = step.device.session_count
        gc.collect()  # the watched sessions hold themselves
        held.append(card.library_live_bytes)
    handles = 256 << 10  # of one session; the provider may keep one, and vectors of ones
    assert sessions > 3
    assert max(held) - min(held) < 2 * handles
