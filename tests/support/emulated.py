"""Steps on the emulated card, and what they must compute."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cuda_emulator import emulator as emu

from planc.graph.graph import Role
from planc.importer.build import ImportedModel
from planc.importer.submodel import element_type, sub_model
from planc.plan.plan import Plan
from planc.problem.build import build_problem
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import TrainingStep, load
from support.costs import made_up_costs
from support.plans import plan_of
from support.schedules import random_schedule

_loaded: list[emu.Emulator] = []


def loaded_emulator(folder: Path) -> emu.Emulator:
    """The emulator, built and loaded once a process; skips the test where it cannot be."""
    missing = emu.why_not()
    if missing:
        pytest.skip(missing)
    if not _loaded:
        _loaded.append(emu.Emulator(emu.build(folder)))
        _loaded[0].copies(latency_ns=1000, bandwidth=10**9)
    return _loaded[0]


@pytest.fixture
def card(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[emu.Emulator]:
    """The emulated card in place of CUDA; nothing may be left on it after the test."""
    emulator = loaded_emulator(tmp_path_factory.mktemp("emulator"))
    emu.stand_in(emulator, monkeypatch.setattr)
    emulator.reset()
    yield emulator
    emulator.reset()
    assert emulator.live == 0


def cuda_plan(imported: ImportedModel, seed: int) -> Plan:
    """The plan of a random schedule for a card, its scratch in an arena beside the slab."""
    problem = build_problem(imported.graph, made_up_costs(imported.graph)).problem
    plan = plan_of(imported, random_schedule(problem, seed))
    return msgspec.structs.replace(plan, costs=msgspec.structs.replace(plan.costs, kind="cuda"))


def segment_durations(imported: ImportedModel, plan: Plan) -> list[int]:
    """Made-up time of every segment of a plan."""
    costs = made_up_costs(imported.graph)
    return [sum(costs.layer(run.layer).compute_ns for run in plan.runs[a:b]) for a, b in plan.segments]


def open_step(card: emu.Emulator, imported: ImportedModel, plan: Plan, replay: bool | None = True) -> TrainingStep:
    """The plan on the card, its segments lasting as the made-up costs say."""
    card.durations = iter(segment_durations(imported, plan))
    return load(plan, imported, replay=replay)


Results = list[dict[str, bytes]]


def run_steps(step: TrainingStep, imported: ImportedModel, count: int) -> Results:
    """Bytes of outputs and state after each of `count` steps."""
    results = []
    for seed in range(count):
        outputs = step(synthetic_feeds(imported.graph, seed))
        results.append({name: value.tobytes() for name, value in {**outputs, **step.state()}.items()})
    return results


def expected(card: emu.Emulator, imported: ImportedModel, count: int) -> Results:
    """The same without planc's executor: all operators in one segment, every storage at an address of its own."""
    graph = imported.graph
    place: dict[int, np.ndarray] = {}
    for index, storage in enumerate(graph.storages):
        sizes = [_nbytes(imported, tensor) for tensor in storage.tensors]
        place[index] = np.zeros(max(sizes), np.uint8)
    known = {**imported.constants, **imported.file.initial_values}
    model = sub_model(imported, range(len(graph.ops)))
    session = card.session(model.model_bytes, 0)
    binding = session.io_binding()
    for port in (*model.inputs, *model.outputs):
        tensor = graph.tensors[port.tensor]
        at = place[tensor.storage].ctypes.data
        binding.bind_input(port.name, "cuda", 0, element_type(imported, port.tensor), tensor.shape, at)
    for tensor in graph.tensors:
        if graph.storages[tensor.storage].role is not Role.COMPUTED and tensor.name in known:
            _put(place[tensor.storage], known[tensor.name])
    results = []
    for seed in range(count):
        for tensor in graph.tensors:
            if tensor.name in (feeds := synthetic_feeds(graph, seed)):
                _put(place[tensor.storage], feeds[tensor.name])
        card.compute(*session._pack(binding))
        results.append(
            {
                graph.tensors[i].name: _get(imported, place, i)
                for i in (*graph.state, *(t for t in graph.outputs if t not in graph.state.values()))
            }
        )
    return results


def _nbytes(imported: ImportedModel, tensor: int) -> int:
    info = imported.graph.tensors[tensor]
    return int(np.prod(info.shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize


def _put(place: np.ndarray, value: np.ndarray) -> None:
    data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
    place[: len(data)] = data


def _get(imported: ImportedModel, place: dict[int, np.ndarray], tensor: int) -> bytes:
    return place[imported.graph.tensors[tensor].storage][: _nbytes(imported, tensor)].tobytes()
