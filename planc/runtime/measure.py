"""Running a plan and, beside it, the unplanned graph: times, memory, and whether every bit agrees."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from planc.graph.graph import Graph, Role
from planc.importer.import_model import ImportedModel
from planc.importer.seeds import seeded, with_seeds
from planc.importer.weights import filled
from planc.importer.whole import forms_of_operators, fuses_halves, whole_model
from planc.kernels import DOMAIN as OWN
from planc.kernels.engines import mark_form, write_engines
from planc.runtime.differing import differing, first_made
from planc.runtime.open import open_session
from planc.runtime.resident import peak_resident_bytes, unplanned_growth_bytes
from planc.runtime.step import TrainingStep

Feeds = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Measurement:
    """Medians in ns over the steps after the first, which warms up. The unplanned half is None without comparison.

    `resident_growth_bytes` is by how much the process grew until the end of the first planned step with `compare`, else
    of the last one; `unplanned_growth_bytes` the same of a process of its own that runs the unplanned graph. None on a
    card. `differing_values` counts elements of outputs and state whose bits differ, over all steps; `first_differing` names
    the first tensor of them that the first such step made.
    """

    steps: int
    step_ns: int
    losses: tuple[float, ...]
    peak_slab_bytes: int
    peak_scratch_bytes: int
    peak_slab_scratch_bytes: int = 0
    unplanned_step_ns: int | None = None
    differing_values: int | None = None
    first_differing: str = ""
    resident_growth_bytes: int | None = None
    predicted_growth_bytes: int | None = None
    unplanned_growth_bytes: int | None = None

    @property
    def bitwise_equal(self) -> bool | None:
        """Whether every output and state agreed in every bit, every step; None without comparison."""
        return None if self.differing_values is None else self.differing_values == 0


def synthetic_feeds(graph: Graph, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A batch of standard normal values; integers uniform in the ranges that the model's metadata names.

    Hyper-parameters are left as they are.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        if graph.storages[tensor.storage].role is not Role.BATCH or tensor.name in graph.hyperparameters:
            continue
        dtype = np.dtype(tensor.dtype)
        if dtype.kind in "iub":
            low, high = graph.input_ranges.get(tensor.name, (0, 2))
            feeds[tensor.name] = np.asarray(rng.integers(low, high, tensor.shape), dtype)
        else:
            feeds[tensor.name] = np.asarray(rng.standard_normal(tensor.shape, np.float32), dtype)
    return feeds


class UnplannedStep:
    """The same training graph in one ordinary ONNX Runtime session, which manages its own memory.

    State stays on the device between steps. Random operators draw what a planned step of the same `seed` draws. Layers run
    in the forms that `forms` names, as a plan's do, and chains of half precision are fused where the plan's are. What is
    compared bit for bit with a plan on a card is made of its step's `imported`, which has the engines that the plan pins:
    other engines round otherwise.
    """

    def __init__(
        self, imported: ImportedModel, kind: str = "cpu", index: int = 0, seed: int = 0,
        forms: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        self._kind, self._index = kind, index
        self._next = dict(imported.state_names)
        if fuses_halves(imported):
            model = whole_model(with_seeds(imported, seed), forms or {})
        else:
            model = _given(imported, seed, forms or {})
        write_engines(model, imported.engines)
        self._session = open_session(model.SerializeToString(), kind, index)
        self._names = [value.name for value in imported.file.proto.graph.output]
        self._state = {name: self._on_device(imported.file.initial_values[name]) for name in self._next}

    def _on_device(self, value: np.ndarray[Any, Any]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(np.asarray(value, order="C"), self._kind, self._index)

    @property
    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Current value of every state, by input name."""
        return {name: value.numpy() for name, value in self._state.items()}

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
        """Run one step, advance the state, and return the outputs that are not state."""
        binding = self._session.io_binding()
        given = {**{n: self._on_device(v) for n, v in feeds.items()}, **self._state}
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            binding.bind_output(name, self._kind, self._index)
        self._session.run_with_iobinding(binding)
        outputs = dict(zip(self._names, binding.get_outputs(), strict=True))
        # an output that is an input has the input's memory, which on the CPU is an array that only `given` keeps alive
        outputs |= {name: given[name] for name in outputs.keys() & given.keys()}
        self._state = {name: outputs.pop(out) for name, out in self._next.items()}
        return {name: value.numpy() for name, value in outputs.items()}


def _given(imported: ImportedModel, seed: int, forms: Mapping[int, str]) -> onnx.ModelProto:
    """The model as it was given, without the initial values of its state: a session would hold a second copy of each."""
    file = imported.file
    file.require_unchanged()
    proto, graph = file.proto, file.proto.graph
    kept = [filled(tensor, file.folder) for tensor in graph.initializer if tensor.name not in imported.state_names]
    nodes = seeded(graph.node, seed)
    lean = helper.make_graph(nodes, graph.name, graph.input, graph.output, kept, value_info=graph.value_info)
    model = helper.make_model(
        lean, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
    )
    marks = forms_of_operators(imported, forms)
    by_output = {imported.nodes[imported.graph.ops[op].node].output[0]: form for op, form in marks.items()}
    for node in model.graph.node:
        if node.domain == OWN and node.output[0] in by_output:
            mark_form(node, by_output[node.output[0]])
    return model


def measure(
    step: TrainingStep,
    steps: int,
    seed: int,
    compare: bool,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    resident_before: int | None = None,
) -> Measurement:
    """Run `steps` steps on synthetic batches; with `compare` take turns with the unplanned graph and compare every bit.

    `resident_before` has the bytes that the process held before the model was read, for its growth to be measured.
    """
    graph, unplanned, peak = step.imported.graph, None, 0
    loss = next((name for name, tensor in step.imported.outputs.items() if tensor == graph.loss), None)
    planned_ns, unplanned_ns, losses, values, first = list[int](), list[int](), list[float](), 0, ""
    for index in range(steps):
        progress(index, steps, f"loss {losses[-1]:.4f}" if losses else "")
        feeds = synthetic_feeds(graph, seed + index * graph.ranks + step.rank)
        if unplanned is not None and index % 2:  # which goes first takes turns too: the second finds warmer caches
            expected = _timed(unplanned, feeds, unplanned_ns)
        outputs = _timed(step, feeds, planned_ns)
        if compare and unplanned is None:
            peak = peak_resident_bytes()
            unplanned = UnplannedStep(
                step.imported, step.device.kind, step.device.index, step.seed, step.plan.layer_forms
            )
        if loss in outputs:
            losses.append(float(outputs[loss]))
        if unplanned is not None:
            if not index % 2:
                expected = _timed(unplanned, feeds, unplanned_ns)
            wrong = differing({**outputs, **step.state()}, {**expected, **unplanned.state})
            values += sum(wrong.values())
            first = first or (first_made(step.imported, wrong) if wrong else "")
        del feeds  # before the next batch is made: a step holds one
    growth = (peak or peak_resident_bytes()) - resident_before if resident_before is not None else None
    return Measurement(
        steps=steps,
        step_ns=_median(planned_ns),
        losses=tuple(losses),
        peak_slab_bytes=step.plan.memory.slab_bytes,
        peak_scratch_bytes=step.device.peak_scratch_bytes,
        peak_slab_scratch_bytes=getattr(step.device, "peak_slab_scratch_bytes", 0),
        unplanned_step_ns=_median(unplanned_ns) if unplanned is not None else None,
        differing_values=values if unplanned is not None else None,
        first_differing=first,
        resident_growth_bytes=growth,
        predicted_growth_bytes=step.predicted_growth_bytes if growth is not None else None,
        unplanned_growth_bytes=_unplanned_growth(step, seed) if growth is not None and compare else None,
    )


def _unplanned_growth(step: TrainingStep, seed: int) -> int | None:
    path = step.imported.file.path
    return unplanned_growth_bytes(path, 2, seed) if path is not None else None


def _timed(step: Callable[[Feeds], dict[str, np.ndarray[Any, Any]]], feeds: Feeds, times: list[int]) -> dict[str, Any]:
    """The outputs of one step, whose duration in ns is added to `times`."""
    start = time.perf_counter_ns()
    outputs = step(feeds)
    times.append(time.perf_counter_ns() - start)
    return outputs


def _median(times: list[int]) -> int:
    return int(statistics.median(times[1:] or times))
