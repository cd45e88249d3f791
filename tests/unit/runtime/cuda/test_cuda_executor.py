"""The executor on the emulated card: free of races, right in every byte, within the plan's memory and time."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import onnx
import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.concats import branches
from support.emulated import card, cuda_plan, expected, open_step, run_steps
from support.versions import CASES as VERSIONS
from support.views import stacked

from planc.errors import DeviceError
from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.runtime.cuda.provider import FORMS
from planc.runtime.executor import Executor
from planc.verifier.verify import verify

__all__ = ["card"]
NETWORKS = {
    "cnn": networks.cnn,
    "mlp": networks.mlp,
    "adam_mlp": networks.adam_mlp,
    "views": stacked,
    "concats": branches,
}
PLANS = [("cnn", seed) for seed in range(4)] + [(name, seed) for name in ("mlp", "adam_mlp") for seed in range(3)]
PLANS += [("views", seed) for seed in (0, 2, 3)] + [("concats", seed) for seed in (0, 9, 28)]
SCHEDULES = 200


@pytest.mark.parametrize(("name", "seed"), PLANS)
def test_every_schedule_computes_the_plain_graph_without_a_race(card: Emulator, name: str, seed: int) -> None:
    imported = NETWORKS[name]()
    plan = cuda_plan(imported, seed)
    assert plan.copies
    want = expected(card, imported, 2)
    for replay in (False, True):
        with open_step(card, imported, plan, replay) as step:
            start = step.state()
            for schedule in range(SCHEDULES // 2):
                card.reset(schedule)
                step.set_state(start)
                assert run_steps(step, imported, 2) == want
                assert card.problems == []
        assert card.live == 0


@pytest.mark.parametrize(("name", "seed"), PLANS[::3])
def test_device_memory_is_the_plans_slab(card: Emulator, name: str, seed: int) -> None:
    imported = NETWORKS[name]()
    plan = cuda_plan(imported, seed)
    with open_step(card, imported, plan) as step:
        run_steps(step, imported, 2)
        assert card.peak_bytes == plan.memory.slab_bytes + plan.memory.scratch_bytes


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize(("name", "seed"), [plan for plan in PLANS if plan[0] != "concats"])
def test_the_virtual_step_lasts_as_predicted(card: Emulator, name: str, seed: int, replay: bool) -> None:
    imported = NETWORKS[name]()
    plan = cuda_plan(imported, seed)
    with open_step(card, imported, plan, replay) as step:
        run_steps(step, imported, 2)
        start = card.time_ns
        step._executor.run_step()
        assert card.time_ns - start == pytest.approx(plan.prediction.step_ns, rel=0.02)


@pytest.mark.parametrize(("name", "seed"), [("cnn", 0), ("mlp", 1)])
def test_a_replayed_step_does_what_the_launched_one_does(card: Emulator, name: str, seed: int) -> None:
    imported = NETWORKS[name]()
    plan = cuda_plan(imported, seed)
    traces = []
    for replay in (False, True):
        with open_step(card, imported, plan, replay) as step:
            run_steps(step, imported, 2)
            card.trace()
            launches = card.calls("launch")
            step._executor.run_step()
            assert card.calls("launch") - launches == replay
            traces.append(card.trace())
    assert _unaddressed(traces[0]) == _unaddressed(traces[1])


def _unaddressed(trace: list[str]) -> list[str]:
    """Segments by number: their addresses differ between two loads."""
    segments = sorted({line for line in trace if line.startswith("segment")})
    return sorted(f"segment {segments.index(line)}" if line in segments else line for line in trace)


@pytest.mark.parametrize(("name", "seed"), [("cnn", 2), ("mlp", 3)])
def test_dropping_any_wait_is_caught(card: Emulator, monkeypatch: pytest.MonkeyPatch, name: str, seed: int) -> None:
    """Whenever the verifier refuses a plan that lost one wait, the card sees a race, and never otherwise."""
    imported = NETWORKS[name]()
    plan = cuda_plan(imported, seed)
    monkeypatch.setattr("planc.runtime.step.require_valid", lambda *_: None)
    caught = 0
    for broken in _without_one_wait(plan):
        card.reset(1)
        with open_step(card, imported, broken) as step:
            run_steps(step, imported, 2)
        refused = verify(imported.graph, broken) != ()
        assert (card.problems != []) == refused
        caught += refused
    assert caught > 5


def _without_one_wait(plan: Plan) -> Iterator[Plan]:
    """The plan without one wait of a run or of a copy, for each."""
    for field in ("runs", "copies"):
        actions = getattr(plan, field)
        for index, action in enumerate(actions):
            for wait in action.waits:
                changed = list(actions)
                changed[index] = msgspec.structs.replace(action, waits=tuple(w for w in action.waits if w != wait))
                yield msgspec.structs.replace(plan, **{field: tuple(changed)})


def test_a_recording_that_is_refused_falls_back_to_launching(card: Emulator) -> None:
    imported = networks.mlp()
    plan = cuda_plan(imported, 0)
    want = expected(card, imported, 3)
    card.fail("capture", 1)
    with open_step(card, imported, plan) as step:
        assert run_steps(step, imported, 3) == want
        assert "cuStreamBeginCapture" in step.device.capture_refused
        assert card.calls("launch") == 0
    assert card.problems == []


def test_the_host_waits_only_at_the_end_of_a_step(card: Emulator) -> None:
    imported = networks.cnn()
    plan = cuda_plan(imported, 1)
    with open_step(card, imported, plan, replay=False) as step:
        run_steps(step, imported, 1)
        before = card.calls("synchronize")
        executor: Executor = step._executor
        executor._queue_step()
        assert card.calls("synchronize") == before
        step.device.synchronize()


@pytest.mark.parametrize(("launched", "replayed", "kept"), [(50, 20, True), (20, 50, False)])
def test_the_faster_of_launching_and_replaying_is_kept(
    card: Emulator, monkeypatch: pytest.MonkeyPatch, launched: int, replayed: int, kept: bool
) -> None:
    imported = networks.mlp()
    plan = cuda_plan(imported, 0)
    want = expected(card, imported, 6)
    clock = iter([0, 90, 100, 100 + launched, 200, 290, 300, 300 + replayed, *range(400, 500, 10)])
    monkeypatch.setattr("planc.runtime.executor.time.perf_counter_ns", lambda: next(clock))
    with open_step(card, imported, plan, replay=None) as step:
        assert run_steps(step, imported, 6) == want
        assert card.calls("launch") == (4 if kept else 2)
    assert card.problems == []


def _in_form(plan: Plan, form: str) -> Plan:
    return msgspec.structs.replace(plan, runs=tuple(msgspec.structs.replace(run, form=form) for run in plan.runs))


@pytest.mark.parametrize("form", list(FORMS))
def test_a_form_opens_sessions_with_its_settings(card: Emulator, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    imported = networks.cnn()
    plan = _in_form(cuda_plan(imported, 0), form)
    want = expected(card, imported, 2)
    settings = []

    def session(*arguments: Any, **options: Any) -> object:
        settings.append(dict(arguments[4]))
        return card.session(*arguments, **options)

    monkeypatch.setattr("planc.runtime.cuda.device.cuda_session", session)
    with open_step(card, imported, plan) as step:
        assert run_steps(step, imported, 2) == want
    assert settings
    assert all(given == FORMS[form] for given in settings)
    assert card.problems == []


def test_unknown_forms_are_refused(card: Emulator) -> None:
    imported = networks.mlp()
    plan = _in_form(cuda_plan(imported, 0), "quick")
    with pytest.raises(DeviceError, match="form 'quick'; CUDA sessions have fallback, mode_b"):
        open_step(card, imported, plan)
    on_cpu = msgspec.structs.replace(plan, costs=msgspec.structs.replace(plan.costs, kind="cpu"))
    with pytest.raises(DeviceError, match="on the CPU every layer has one form"):
        open_step(card, imported, on_cpu)
    assert card.live == 0


@pytest.mark.parametrize("make", VERSIONS, ids=lambda make: make.__name__)
def test_outputs_are_of_their_version_on_a_card_too(card: Emulator, make: Callable[[], onnx.ModelProto]) -> None:
    imported = import_model(make())
    want = expected(card, imported, 3)
    for seed in range(2):
        card.reset(seed)
        with open_step(card, imported, cuda_plan(imported, seed), replay=bool(seed)) as step:
            assert run_steps(step, imported, 3) == want
            assert card.problems == []
