"""Steps on the emulated card, and what they must compute."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from cuda_emulator import emulator as emu

from planc.graph.concat import pieces_of
from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import element_type, sub_model
from planc.plan.executed import executed
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import build_problem
from planc.runtime.cuda.driver import Context, allocate, call
from planc.runtime.measure import synthetic_feeds
from planc.runtime.own_kernels import kernel_versions
from planc.runtime.step import TrainingStep, load
from support.costs import made_up_costs
from support.plans import plan_of
from support.schedules import random_schedule

SCRATCH_BYTES = 1 << 20
"""More than any operator of the tests' random plans takes."""

_loaded: list[emu.Emulator] = []


def loaded_emulator(folder: Path) -> emu.Emulator:
    """The emulator, built and loaded once a process; skips the test where it cannot be."""
    missing = emu.why_not()
    if missing:
        pytest.skip(missing)
    if not _loaded:
        _loaded.append(emu.Emulator(emu.build(folder)))
        _loaded[0].copies(latency_ns=1000, bandwidth=10**9)
        _loaded[0].reset()
        _loaded[0].present(True)
    return _loaded[0]


@pytest.fixture
def card(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[emu.Emulator]:
    """The emulated card in place of CUDA; nothing may be left on it after the test."""
    emulator = loaded_emulator(tmp_path_factory.mktemp("emulator"))
    monkeypatch.setattr("planc.runtime.cuda.device.cuda_session", emulator.session)
    emulator.reset()
    emulator.expect_segments(())
    emulator.present(True)
    yield emulator
    emulator.present(False)
    emulator.reset()
    assert emulator.live == 0


def cuda_plan(imported: ImportedModel, seed: int) -> Plan:
    """The plan of a random schedule for a card, its scratch in an arena beside the slab."""
    problem = build_problem(imported.graph, made_up_costs(imported.graph)).problem
    plan = plan_of(imported, random_schedule(problem, seed))
    memory = plan.memory
    return msgspec.structs.replace(
        plan,
        costs=msgspec.structs.replace(plan.costs, kind="cuda", versions=kernel_versions(imported, "cuda")),
        memory=msgspec.structs.replace(
            memory, scratch_bytes=SCRATCH_BYTES, budget_bytes=memory.budget_bytes + SCRATCH_BYTES
        ),
    )


def segment_durations(imported: ImportedModel, plan: Plan) -> list[int]:
    """Made-up time of every segment of a plan that has something to run."""
    costs, stays = made_up_costs(imported.graph), ResidencyIndex(plan.residencies)
    parts = executed(imported.graph, plan.runs, plan.segments, stays)
    spans = [(part.first, part.end) for part in parts if not part.empty]
    return [sum(costs.layer(run.layer).compute_ns for run in plan.runs[first:end]) for first, end in spans]


def open_step(card: emu.Emulator, imported: ImportedModel, plan: Plan, replay: bool | None = True) -> TrainingStep:
    """The plan on the card, its segments lasting as the made-up costs say."""
    card.expect_segments(segment_durations(imported, plan))
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
    """The same without planc's executor: one session over the whole graph, every storage in memory of its own."""
    return expected_rounds(card, imported, count, 1)[0]


def expected_rounds(card: emu.Emulator, imported: ImportedModel, count: int, rounds: int) -> list[Results]:
    """The same, `rounds` times from the initial state; what draws random numbers goes on drawing others."""
    context = Context()
    plain = PlainSteps(card, imported)
    results = []
    for _ in range(rounds):
        plain.start()
        results.append([plain(seed) for seed in range(count)])
    plain.close()
    context.close()
    return results


class PlainSteps:
    """The graph as one session, each storage in an allocation of its own, but the inputs of a Concat inside its output:
    the card's operators write patterns, so that a Concat that runs writes something else than its inputs."""

    def __init__(self, card: emu.Emulator, imported: ImportedModel) -> None:
        self.imported, graph = imported, imported.graph
        sizes = [storage.nbytes for storage in graph.storages]
        self.place = [allocate(size, "a storage") for size in sizes]
        self.allocated = list(self.place)
        model = sub_model(imported, range(len(graph.ops)), self._place_concats())
        self.session = card.session(model.model_bytes, 0)
        self.binding = self.session.io_binding()
        for ports, bind in ((model.inputs, self.binding.bind_input), (model.outputs, self.binding.bind_output)):
            for port in ports:
                tensor = graph.tensors[port.tensor]
                at = self.place[tensor.storage] + tensor.offset
                bind(port.name, "cuda", 0, element_type(imported, port.tensor), tensor.shape, at)
        self.start()

    def start(self) -> None:
        """Put every value that a step needs from outside, its feeds apart."""
        self._put({**self.imported.constants, **self.imported.file.initial_values})

    def _place_concats(self) -> set[int]:
        """The Concats whose inputs die there, now in their places; one of another's output has it placed first."""
        graph, placed = self.imported.graph, set()
        for op in reversed(range(len(graph.ops))):
            pieces = pieces_of(graph, op) or ()
            if pieces and all(graph.last_read[storage] == op for storage, _ in pieces):
                placed.add(op)
                for storage, offset in pieces:
                    self.place[storage] = self.place[graph.tensors[graph.ops[op].outputs[0]].storage] + offset
        return placed

    def __call__(self, seed: int) -> dict[str, bytes]:
        """One step; bytes of outputs and state after it."""
        graph = self.imported.graph
        self._put(synthetic_feeds(graph, seed))
        self.session.run_with_iobinding(self.binding, ort.RunOptions())
        outputs = {name: self._get(tensor) for name, tensor in self.imported.outputs.items()}
        return outputs | {graph.tensors[i].name: self._get(i) for i in graph.state}

    def _put(self, values: Mapping[str, np.ndarray]) -> None:
        for tensor in self.imported.graph.tensors:
            if tensor.name in values and self.imported.graph.storages[tensor.storage].role is not Role.COMPUTED:
                data = np.ascontiguousarray(values[tensor.name])
                call("cuMemcpyHtoD", self.place[tensor.storage], data.ctypes.data, data.nbytes)

    def _get(self, tensor: int) -> bytes:
        data = np.empty(self._nbytes(tensor), np.uint8)
        info = self.imported.graph.tensors[tensor]
        call("cuMemcpyDtoH", data.ctypes.data, self.place[info.storage] + info.offset, data.nbytes)
        return data.tobytes()

    def _nbytes(self, tensor: int) -> int:
        info = self.imported.graph.tensors[tensor]
        return int(np.prod(info.shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize

    def close(self) -> None:
        """Free the storages."""
        for at in self.allocated:
            call("cuMemFree", at)
