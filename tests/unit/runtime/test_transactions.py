"""A step is whole or has not happened: signals, failures, threads, forks, closing."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_emulator.emulator import Emulator
from onnx import TensorProto, helper, numpy_helper
from support import networks
from support.emulated import card, cuda_plan, open_step
from support.plans import random_plan

from planc.errors import DeviceError, FeedError
from planc.importer.import_model import import_model
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.scratch import ScratchAllocator, ScratchRegion
from planc.runtime.signals import handle_waiting, signals_wait
from planc.runtime.step import TrainingStep, load
from planc.training import differentiate
from planc.training.optimizers import Optimizer

__all__ = ["card"]
Arrays = dict[str, np.ndarray]


def _feeds(step: TrainingStep, seed: int = 0) -> Arrays:
    return synthetic_feeds(step.imported.graph, seed)


def _bytes(state: Arrays) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in state.items()}


@pytest.fixture
def step() -> Iterator[TrainingStep]:
    imported = networks.cnn()
    with load(random_plan(imported, 5, scratch_in_slab=True), imported) as loaded:
        yield loaded


def _failing(step: TrainingStep, at: int, error: BaseException) -> Callable[..., None]:
    """A launch that fails the `at`th time."""
    real, count = step.device.launch, [0]

    def launch(segment: Any) -> None:
        count[0] += 1
        if count[0] == at:
            raise error
        real(segment)

    return launch


# --- callbacks and finalizers


_USES: dict[str, Callable[[TrainingStep], object]] = {
    "close": TrainingStep.close,
    "state": TrainingStep.state,
    "set_state": lambda step: step.set_state({}),
    "call": lambda step: step(_feeds(step)),
}


@pytest.mark.parametrize("use", _USES)
def test_what_python_runs_within_a_step_may_not_use_it(
    step: TrainingStep, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime asks planc's allocator for memory, where the collector may finalize anything: closing the step there
    unmapped what an operator was writing."""
    before, refused = step.state(), list[str]()

    def enter(self: ScratchAllocator, region: ScratchRegion) -> None:
        if not refused:
            with pytest.raises(DeviceError, match="from within itself") as error:
                _USES[use](step)
            refused.append(str(error.value))
        allowed(self, region)

    allowed = ScratchAllocator.enter
    monkeypatch.setattr(ScratchAllocator, "enter", enter)
    expected = UnplannedStep(step.imported)
    assert _bytes(step(_feeds(step))) == _bytes(expected(_feeds(step)))
    assert refused
    assert _bytes(step.state()) == _bytes(expected.state) != _bytes(before)


# --- signals


def _step_under_alarm(step: TrainingStep, delay_us: int) -> None:
    signal.setitimer(signal.ITIMER_REAL, delay_us / 1e6)
    step(_feeds(step))
    signal.pause()


@pytest.mark.parametrize("delay_us", [1, 50, 150, 300, 600, 1000, 1500, 2500])
def test_a_signal_is_handled_after_the_step(step: TrainingStep, delay_us: int) -> None:
    expected = UnplannedStep(step.imported)
    expected(_feeds(step))
    before, after = _bytes(step.state()), _bytes(expected.state)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            _step_under_alarm(step, delay_us)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert _bytes(step.state()) == (after if step.steps else before)
    step(_feeds(step, 1))


def test_signals_wait_in_order_and_handlers_come_back() -> None:
    seen: list[int] = []
    kept = {n: signal.signal(n, lambda number, _: seen.append(number)) for n in (signal.SIGUSR1, signal.SIGALRM)}
    handlers = {n: signal.getsignal(n) for n in kept}
    try:
        with signals_wait(), signals_wait():
            for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGALRM):
                signal.raise_signal(number)
            assert seen == []
        assert sorted(seen) == [signal.SIGUSR1, signal.SIGUSR1, signal.SIGALRM]
        assert {n: signal.getsignal(n) for n in kept} == handlers
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_what_may_last_hands_signals_on_from_inside_all_that_wait() -> None:
    seen: list[int] = []
    kept = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with signals_wait(), signals_wait():
            signal.raise_signal(signal.SIGUSR1)
            handle_waiting()
            assert seen == [signal.SIGUSR1]
        assert seen == [signal.SIGUSR1]
        handle_waiting()
    finally:
        signal.signal(signal.SIGUSR1, kept)
    assert seen == [signal.SIGUSR1]


def _raised_while_waiting(numbers: Iterable[int]) -> None:
    with signals_wait():
        for number in numbers:
            signal.raise_signal(number)


def test_a_handler_that_raises_leaves_no_other_handler_behind() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    kept = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGUSR1, signal.SIGALRM)}
    try:
        with pytest.raises(KeyboardInterrupt):
            _raised_while_waiting(kept)
        assert all(signal.getsignal(number) is interrupt for number in kept)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_ctrl_c_at_the_command_line_ends_the_program_with_its_code(tmp_path: Path) -> None:
    script = f"""
import signal, sys, threading, os, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from support import networks
from support.plans import random_plan
from planc.runtime.step import load
from planc.runtime.measure import synthetic_feeds
imported = networks.cnn()
with load(random_plan(imported, 5, scratch_in_slab=True), imported) as step:
    feeds = synthetic_feeds(imported.graph, 0)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            step(feeds)
    except KeyboardInterrupt:
        step.save_state({str(tmp_path / "state")!r})
        print("saved after", step.steps)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "saved after" in result.stdout
    assert (tmp_path / "state").exists()


# --- failures


def test_a_step_that_failed_is_refused_until_all_state_is_given_anew(step: TrainingStep, tmp_path: Path) -> None:
    step.save_state(tmp_path / "start")
    segments = sum(part.loaded is not None for part in step._executor._parts)
    real, want = step.device.launch, UnplannedStep(step.imported)
    want(_feeds(step))
    for at in range(1, segments + 1):
        step.device.launch = _failing(step, at, DeviceError("no more"))  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match="no more"):
            step(_feeds(step))
        step.device.launch = real  # type: ignore[method-assign]
        for use in (step.state, lambda: step(_feeds(step)), lambda: step.save_state(tmp_path / "torn")):
            with pytest.raises(DeviceError, match="half-way.*no more.*load_state"):
                use()
        step.load_state(tmp_path / "start")
        step(_feeds(step))
        assert _bytes(step.state()) == _bytes(want.state)
        step.load_state(tmp_path / "start")
    assert not (tmp_path / "torn").exists()


@pytest.mark.parametrize("kind", ["store", "fetch"])
def test_a_copy_that_failed_leaves_the_threads_usable(
    step: TrainingStep, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, want = step.state(), UnplannedStep(step.imported)
    want(_feeds(step))
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise OSError("disk full")

        patched.setattr(step.device._tier, kind, fail)
        with pytest.raises((DeviceError, OSError), match="disk full"):
            step(_feeds(step))
    with pytest.raises(DeviceError, match="half-way"):
        step(_feeds(step))
    step.set_state(start)
    step(_feeds(step))
    assert _bytes(step.state()) == _bytes(want.state)


def test_on_a_card_too(card: Emulator) -> None:
    imported = networks.cnn()
    with open_step(card, imported, cuda_plan(imported, 1), replay=False) as step:
        start = step.state()
        step(_feeds(step))
        want, real = _bytes(step.state()), step.device.launch
        step.set_state(start)
        step.device.launch = _failing(step, 2, DeviceError("no more"))  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match="no more"):
            step(_feeds(step))
        step.device.launch = real  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match="half-way"):
            step.state()
        step.set_state(start)
        step(_feeds(step))
        assert _bytes(step.state()) == want
        with pytest.raises(DeviceError, match="thread that loaded it"):
            _in_thread(lambda: step(_feeds(step)))
    with pytest.raises(DeviceError, match="closed"):
        step(_feeds(step))


# --- who may use it


def _in_thread(call: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_threads_wait_for_each_other(step: TrainingStep) -> None:
    feeds = _feeds(step)
    threads = [threading.Thread(target=step, args=(feeds,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = UnplannedStep(step.imported)
    for _ in threads:
        want(feeds)
    assert step.steps == len(threads)
    assert _bytes(step.state()) == _bytes(want.state)


def _code_of_child(work: Callable[[], object]) -> int:
    """What a forked child exits with: 0 where `work` raises the right error."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
        except DeviceError as error:
            code = 0 if "this one was forked from it" in str(error) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_refused_and_closing_there_closes_nothing_here(step: TrainingStep) -> None:
    feeds = _feeds(step)
    assert _code_of_child(lambda: step(feeds)) == 0
    assert _code_of_child(lambda: (step.close(), step.state())) == 0
    step(feeds)


def test_a_closed_step_says_so(tmp_path: Path) -> None:
    imported = networks.cnn()
    step = load(random_plan(imported, 5), imported)
    feeds, state = _feeds(step), step.state()
    device, bound = step.device, next(part.loaded for part in step._executor._parts if part.loaded is not None)
    step.close()
    uses: list[Callable[[], object]] = [
        step.state, lambda: step(feeds), lambda: step.run([], feeds), lambda: step.set_state(state),
        lambda: step.save_state(tmp_path / "s"), lambda: step.on_device("loss"), lambda: device.launch(bound),
        lambda: device.read_slab(0, np.dtype("f4"), (1,)), lambda: device.read_host(0, np.dtype("f4"), (1,)),
        lambda: device.write_slab(0, np.zeros(1)), lambda: device.write_host(0, np.zeros(1)),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(DeviceError, match="closed"):
            use()
    assert list(tmp_path.iterdir()) == []


# --- what is checked before


def test_labels_that_are_no_class_are_refused_before_anything_changes(step: TrainingStep) -> None:
    before, feeds = _bytes(step.state()), _feeds(step)
    for label in (-1, -100, 10, 1 << 40):
        wrong = feeds["labels"].copy()
        wrong[2] = label
        with pytest.raises(FeedError, match=rf"'labels' is {label} at \[2\], the model takes 0 to 9"):
            step(feeds | {"labels": wrong})
    assert _bytes(step.state()) == before


def test_an_input_that_is_not_a_number_is_refused(step: TrainingStep) -> None:
    before, feeds = _bytes(step.state()), _feeds(step)
    wrong = feeds["x"].copy()
    wrong[1, 2, 3, 4] = np.nan
    with pytest.raises(FeedError, match=r"'x' is not a number at \[1, 2, 3, 4\]"):
        step(feeds | {"x": wrong})
    assert _bytes(step.state()) == before
    wrong[1, 2, 3, 4] = np.inf
    step(feeds | {"x": wrong})


@pytest.mark.parametrize(
    "value", [np.ma.masked_equal(np.zeros((4, 3, 12, 12), np.float32), 0), object(), [[1], [1, 2]]]
)
def test_what_is_no_array_is_named(step: TrainingStep, value: object) -> None:
    with pytest.raises(FeedError, match="'x'"):
        step(_feeds(step) | {"x": value})


def test_a_label_that_stands_for_nothing_is_taken_and_counts_for_nothing() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("SoftmaxCrossEntropyLoss", ["scores", "labels"], ["loss"], ignore_index=-100),
    ]
    graph = helper.make_graph(
        nodes,
        "padded",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [3]),
        ],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    imported = import_model(differentiate(model, loss="output", optimizer=Optimizer("sgd")))
    assert imported.graph.ignored == {"labels": -100}
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    with load(random_plan(imported, 1), imported) as step:
        loss = step({"x": x, "labels": np.array([0, 1, -100])})["loss"]
    scores = x @ np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)
    wanted = np.mean([np.log(np.exp(scores[i]).sum()) - scores[i, i] for i in range(2)])
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
