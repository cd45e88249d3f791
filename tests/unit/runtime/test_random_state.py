"""Random numbers are those of the model in one session, whatever shares sessions, and go on after a file."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cuda_emulator.emulator import Emulator
from onnx import helper
from support import networks
from support.emulated import card, cuda_plan, open_step
from support.graphs import step_model
from support.plans import random_plan

from planc.compiler.sessions import distinct_sessions
from planc.errors import DeviceError, FeedError
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.seeds import seeded
from planc.runtime.measure import UnplannedStep, measure, synthetic_feeds
from planc.runtime.ort.sessions import faithful_options
from planc.runtime.state import Generators, read_checkpoint, write_state
from planc.runtime.step import TrainingStep, load

__all__ = ["card"]
SHAPE = [16, 64]
KINDS = ["Dropout", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"]


def _drawing(kind: str, at: str, name: str, seed: float | None) -> list[onnx.NodeProto]:
    """`name` is `at` with noise."""
    attributes: dict[str, object] = {} if seed is None else {"seed": int(seed) if kind == "Dropout" else float(seed)}
    if kind == "Dropout":
        return [helper.make_node(kind, [at, "half", "yes"], [name], **attributes)]
    inputs = [] if kind in ("RandomNormal", "RandomUniform") else ["chance"]
    if not inputs:
        attributes["shape"] = SHAPE
    noise = helper.make_node(kind, inputs, [f"{name}.noise"], **attributes)
    return [noise, helper.make_node("Add", [at, f"{name}.noise"], [name])]


def _model(kind: str, seed: float | None, sites: int = 4) -> onnx.ModelProto:
    """Equal layers with a generator each, all of one seed."""
    nodes, at = [helper.make_node("Sigmoid", ["x"], ["chance"])], "x"
    for i in range(sites):
        nodes += [helper.make_node("Mul", [at, "w"], [f"m{i}"]), *_drawing(kind, f"m{i}", f"d{i}", seed)]
        nodes.append(helper.make_node("Sigmoid", [f"d{i}"], [f"s{i}"]))
        at = f"s{i}"
    nodes += [helper.make_node("Sub", ["w", at], ["w2"]), helper.make_node("ReduceSum", [at], ["loss"], keepdims=0)]
    initial = {"w": np.linspace(-1, 1, 1024, dtype=np.float32).reshape(SHAPE)}
    initial |= {"half": np.float32(0.5), "yes": np.bool_(True)}
    outputs: dict[str, list[int]] = {"loss": [], "w2": SHAPE, **{f"d{i}": SHAPE for i in range(sites)}}
    return step_model(nodes, {"x": SHAPE, "w": SHAPE}, outputs, initial, {"w": "w2"}, "loss")


def _bytes(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in arrays.items()}


def _steps(step: TrainingStep, seeds: range) -> list[dict[str, bytes]]:
    return [_bytes(step(synthetic_feeds(step.imported.graph, seed)) | step.state()) for seed in seeds]


def _session_losses(model: onnx.ModelProto, imported: ImportedModel, count: int) -> list[bytes]:
    """By ONNX Runtime alone."""
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    weight, found = imported.file.initial_values["w"], []
    for seed in range(count):
        loss, weight = session.run(["loss", "w2"], synthetic_feeds(imported.graph, seed) | {"w": weight})
        found.append(loss.tobytes())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan_seed", [1, 2])
def test_equal_layers_with_one_seed_draw_what_one_session_draws(kind: str, plan_seed: int) -> None:
    model = _model(kind, seed=5)
    imported = import_model(model)
    with load(random_plan(imported, plan_seed), imported) as step:
        losses = [result["loss"] for result in _steps(step, range(3))]
    assert losses == _session_losses(model, imported, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_operators_without_a_seed_draw_their_own_numbers_and_the_same_in_every_run(kind: str) -> None:
    imported = import_model(_model(kind, seed=None))
    with load(random_plan(imported, 1), imported) as step:
        assert measure(step, 3, 0, compare=True).bitwise_equal is True
    first, other = [], []
    for seed, found in ((0, first), (1, other)):
        with load(random_plan(imported, 2), imported, seed=seed) as step:
            found += _steps(step, range(2))
    assert first[0] != other[0]
    names = [node.output[0] for node in imported.nodes if node.op_type == kind]
    seeds = [a.f or a.i for node in seeded(imported.nodes, 3) for a in node.attribute if a.name == "seed"]
    assert len(set(seeds)) == len(names) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 5])
def test_numbers_go_on_after_a_file(kind: str, seed: float | None, tmp_path: Path) -> None:
    imported = import_model(_model(kind, seed))
    with load(random_plan(imported, 1), imported) as step:
        _steps(step, range(3))
        step.save_state(tmp_path / "s")
        want = _steps(step, range(3, 5))
        step.load_state(tmp_path / "s")  # back in the same step
        assert _steps(step, range(3, 5)) == want
    with load(random_plan(imported, 2), imported) as other:  # and in another, of another plan
        other.load_state(tmp_path / "s")
        assert _steps(other, range(3, 5)) == want


def test_a_failed_step_draws_again_what_it_drew(tmp_path: Path) -> None:
    imported = import_model(_model("Dropout", 5))
    with load(random_plan(imported, 1), imported) as step:
        _steps(step, range(2))
        start, real = step.state(), step.device.launch
        want = _steps(step, range(2, 3))
    with load(random_plan(imported, 1), imported) as step:
        _steps(step, range(2))
        real, count = step.device.launch, [0]
        parts = sum(part.loaded is not None for part in step._executor._parts)

        def launch(segment: object) -> None:
            count[0] += 1
            if count[0] == parts:
                raise DeviceError("no more")
            real(segment)

        step.device.launch = launch  # type: ignore[method-assign, assignment]
        with pytest.raises(DeviceError, match="no more"):
            _steps(step, range(2, 3))
        step.device.launch = real  # type: ignore[method-assign]
        step.set_state(start)
        assert _steps(step, range(2, 3)) == want


def test_a_file_that_names_an_endless_number_of_draws_can_be_interrupted(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    imported, path = import_model(_model("RandomNormal", None)), tmp_path / "state.safetensors"
    with load(random_plan(imported, 1), imported) as step:
        step.save_state(tmp_path / "whole.safetensors")
        write_state(step.state(), path, Generators(1 << 62, step.seed))
        previous = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(KeyboardInterrupt):
                step.load_state(path)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        with pytest.raises(DeviceError, match="half-way"):
            step.state()
        step.load_state(tmp_path / "whole.safetensors")
        first = _steps(step, range(1))
    with load(random_plan(imported, 1), imported) as step:
        assert _steps(step, range(1)) == first


class _Between:
    """Before and after each time that the test's thread holds the step, another thread takes one more. `after` has the
    state after so many steps."""

    def __init__(self, step: TrainingStep) -> None:
        self._step, self._use, self._watched = step, step._guard.use, threading.get_ident()
        self._inside = False
        self.after = {0: _bytes(step.state())}

    @contextmanager
    def use(self, torn: bool = False) -> Iterator[None]:
        """In place of `Guard.use`."""
        if threading.get_ident() != self._watched or self._inside:
            with self._use(torn):
                yield
            return
        self._intrude()
        with self._use(torn):
            self._inside = True
            try:
                yield
            finally:
                self._inside = False
        self._intrude()

    def _intrude(self) -> None:
        thread = threading.Thread(target=self._take_step)
        thread.start()
        thread.join()

    def _take_step(self) -> None:
        self._step(synthetic_feeds(self._step.imported.graph, 0))
        self.after[self._step.steps] = _bytes(self._step.state())


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TrainingStep, _Between]]:
    """A step with dropout that another thread uses as soon as it can."""
    imported = import_model(_model("Dropout", 5))
    with load(random_plan(imported, 1), imported) as step:
        other = _Between(step)
        monkeypatch.setattr(step._guard, "use", other.use)
        yield step, other


def test_a_file_has_state_and_generators_of_one_moment(between: tuple[TrainingStep, _Between], tmp_path: Path) -> None:
    step, other = between
    step.save_state(tmp_path / "s")
    state, generators = read_checkpoint(tmp_path / "s")
    assert generators is not None
    assert generators.drawn < step.steps
    assert _bytes(state) == other.after[generators.drawn]


@pytest.mark.parametrize("given", ["set_state", "go_on_from"])
def test_generators_stay_where_they_are_though_a_step_came_between(
    given: str, between: tuple[TrainingStep, _Between]
) -> None:
    step, _ = between
    values = {"w": np.zeros(SHAPE, np.float32)}
    step.set_state(values) if given == "set_state" else step.go_on_from(values, None)
    assert step.generators == Generators(step.steps, step.seed)
    assert step.steps > 0


def test_another_seed_cannot_go_on(tmp_path: Path) -> None:
    imported = import_model(_model("Dropout", None))
    plan = random_plan(imported, 1)
    with load(plan, imported, seed=1) as step:
        step.save_state(tmp_path / "s")
    with load(plan, imported, seed=2) as step, pytest.raises(FeedError, match="seed=1"):
        step.load_state(tmp_path / "s")


def test_a_state_file_without_random_operators_has_no_generators(tmp_path: Path) -> None:
    imported = networks.mlp()
    with load(random_plan(imported, 1), imported) as step:
        step.save_state(tmp_path / "s")
    assert b"planc" not in (tmp_path / "s").read_bytes()


def test_sessions_are_counted_as_they_are_made() -> None:
    imported = import_model(_model("Dropout", 5))
    plan = random_plan(imported, 1)
    with load(plan, imported) as step:
        assert step.device.session_count == distinct_sessions(imported, plan) >= 4


def test_generators_of_a_card_have_sessions_of_their_own_and_are_wound_back(card: Emulator) -> None:
    imported = import_model(_model("Dropout", 5))
    plan = cuda_plan(imported, 1)
    with open_step(card, imported, plan, replay=False) as step:
        start = step.state()
        assert step.device.session_count == distinct_sessions(imported, plan) >= 4
        generators = [part for part in step._executor._parts if part in step._executor._generators]
        before = {id(part.loaded) for part in generators}
        _steps(step, range(2))
        step._executor.wind(1, anew=True)
        assert step._executor.drawn == 1
        assert before.isdisjoint(id(part.loaded) for part in generators)
        step._put_constants()
        step.set_state(start)
        _steps(step, range(1))
    assert card.problems == []


def test_a_step_with_a_generator_of_onnx_runtimes_is_not_replayed(card: Emulator) -> None:
    imported = import_model(_model("Dropout", 5))
    with open_step(card, imported, cuda_plan(imported, 1), replay=True) as step:
        _steps(step, range(4))
        assert "Dropout" in step.device.capture_refused
        assert card.calls("launch") == 0
    assert card.problems == []


def test_the_unplanned_step_draws_by_the_same_seed() -> None:
    imported = import_model(_model("RandomNormal", None))
    feeds = synthetic_feeds(imported.graph, 0)
    one, same, other = (UnplannedStep(imported, seed=seed)(feeds)["loss"] for seed in (3, 3, 4))
    assert one == same != other
