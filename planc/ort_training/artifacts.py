"""ONNX Runtime's training artifacts (onnxruntime-training, up to 1.19) as training graphs of standard operators.

A pair of models describes the step there: `training_model.onnx` computes the loss and accumulates gradients,
`optimizer_model.onnx` updates parameters given as sequences. Here both become one step on one batch.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.errors import ModelError
from planc.ort_training import algebra as ort_artifacts_rules  # noqa: F401 - registers the handlers
from planc.ort_training.graph import ACCUMULATORS, Structure, structure_of
from planc.ort_training.lowering import ArtifactLowering
from planc.ort_training.optimizers import ArtifactOptimizer, optimizer_of
from planc.training.assembly import Assembly
from planc.training.emit.builder import FLOATS, Array, Builder, LayerGroup, Var
from planc.training.emit.forms import table_for
from planc.training.step_options import ParameterGroup, StepOptions

LEARNING_RATE = 1e-3
"""The default of onnxruntime.training.api.Optimizer."""

_VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def import_artifacts(
    training: onnx.ModelProto,
    optimizer: onnx.ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    weights: Mapping[str, Array] | None = None,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: str = "cpu",
) -> onnx.ModelProto:
    """The training graph of a pair of artifacts.

    `dims` binds symbolic dimensions of the inputs. Artifacts keep the parameters in a checkpoint beside them:
    `weights` gives initial values by name, and inputs named there that are not trained become constants; without a
    value, weights are drawn from `seed` (He et al., 2015), scales are one, biases zero. Gradients are not accumulated
    over batches: every step uses its own. Raises ModelError naming the node or input that planc cannot lower.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(training)
    _bind(bound, dims or {})
    step = _ArtifactStep(bound, optimizer_of(optimizer, learning_rate), weights or {}, seed, device)
    return step.build()


def _bind(model: onnx.ModelProto, dims: Mapping[str, int]) -> None:
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            if dim.dim_param not in dims:
                raise ModelError(
                    f"input {info.name!r}: dimension {axis} ({dim.dim_param or 'without a name'}) is not bound; give "
                    f"its size, e.g. --dim {dim.dim_param or 'batch'}=16"
                )
            dim.dim_value = dims[dim.dim_param]


class _ArtifactStep:
    """Builds one training graph from a training model of known shapes."""

    def __init__(
        self, model: onnx.ModelProto, optimizer: ArtifactOptimizer, weights: Mapping[str, Array], seed: int, device: str
    ) -> None:
        self.model, self.optimizer, self.weights = model, optimizer, weights
        self.structure: Structure = structure_of(model)
        self.b = Builder()
        table = table_for(device)
        self.c = ArtifactLowering(self.b, table=table)
        group = ParameterGroup(optimizer.rule, list(self.structure.gradients))
        self.step = Assembly(self.b, table, [group], StepOptions(clip_norm=optimizer.max_norm))
        self.random = np.random.default_rng(seed)
        self._declare()

    def build(self) -> onnx.ModelProto:
        """Lower layer by layer, and hand over each gradient as soon as nothing waits for the old parameter any more."""
        due = self._due()
        for group, nodes in self.structure.forward:
            self._lower(group, nodes)
        for at, (group, nodes) in enumerate(self.structure.backward):
            self._lower(group, nodes)
            for name in due.get(at, ()):
                self.step.ready(name, self._gradient(name), group)
        loss = self.c.ordered(self.c.tensor(self.structure.loss))
        return self.step.finished(loss, self.c.index_sizes)

    def _lower(self, group: LayerGroup, nodes: list[onnx.NodeProto]) -> None:
        self.b.group = group
        for node in nodes:
            self.c.run(node)
        if self.c.updates:
            updates, self.c.updates = self.c.updates, []
            self.step.flush(updates, group)

    def _gradient(self, name: str) -> Var:
        gradient = self.c.ordered(self.c.tensor(self.structure.gradients[name]))
        shape = self.b.values[name].shape
        return gradient if gradient.shape == shape else self.c.view(gradient, shape)

    # --- inputs

    def _declare(self) -> None:
        """Give every input its place: trained or running state, a constant, or the batch."""
        graph = self.model.graph
        running = dict(self._running_statistics())
        buffers = {node.input[0] for node in graph.node if node.op_type in ACCUMULATORS}
        layers = (*self.structure.forward, *self.structure.backward)
        read = {name for _, nodes in layers for node in nodes for name in node.input}
        defaults = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        inputs = {info.name for info in graph.input}
        self.c.constants.update({name: value for name, value in defaults.items() if name not in inputs})
        for info in graph.input:
            name, dtype = info.name, info.type.tensor_type.elem_type
            shape = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
            if name in buffers or (name not in read and name not in self.structure.gradients):
                continue
            given = self.weights.get(name, defaults.get(name))
            if name in self.structure.gradients or name in running:
                value = self._initial(name, shape, dtype, given, running.get(name))
                self.c.known[name] = self.step.tensor(name, value, changes=True)
                self.c.resident.add(name)
            elif given is not None:
                self.c.known[name] = self.step.tensor(name, _checked(name, given, shape, dtype), changes=False)
                self.c.resident.add(name)
            else:
                self.c.known[name] = self.step.batch_input(name, shape, dtype)
                self.c.resident.add(name)

    def _running_statistics(self) -> Iterator[tuple[str, float]]:
        """Inputs that hold running means and variances, with the value they start from."""
        for _, nodes in self.structure.forward:
            for node in nodes:
                if node.op_type == "BatchNormInternal":
                    yield from zip(node.input[3:5], (0.0, 1.0), strict=True)

    def _initial(
        self, name: str, shape: tuple[int, ...], dtype: int, given: Array | None, fill: float | None
    ) -> Array:  # fmt: skip
        """The initial value of a state tensor: as given, or by what it is."""
        if given is not None:
            return _checked(name, given, shape, dtype)
        if dtype not in FLOATS:
            raise ModelError(f"state input {name!r} has no initial value: give one with --weights")
        numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
        if fill is not None:
            return np.full(shape, fill, numpy_type)
        if len(shape) < 2:
            return np.full(shape, float(name in self._scales()), numpy_type)
        fan_in = math.prod(shape[1:])
        return (self.random.standard_normal(shape) * math.sqrt(2 / fan_in)).astype(numpy_type)

    def _scales(self) -> set[str]:
        """Parameters that scale a normalised tensor."""
        normalising = ("BatchNormInternal", "BatchNormalization", "LayerNormalization")
        return {n.input[1] for _, nodes in self.structure.forward for n in nodes if n.op_type in normalising}

    # --- order

    def _due(self) -> dict[int, list[str]]:
        """{backward layer: parameters to update after it}: their gradient is made, and nothing reads them later."""
        readers: dict[str, list[int]] = {}
        made: dict[str, int] = {}
        viewed: dict[str, str] = {}
        for at, (_, nodes) in enumerate((*self.structure.forward, *self.structure.backward)):
            place = max(0, at - len(self.structure.forward))
            for node in nodes:
                made.update(dict.fromkeys(node.output, place))
                if node.op_type in _VIEWS:
                    viewed[node.output[0]] = node.input[0]
                for name in node.input:
                    readers.setdefault(_source(name, viewed), []).append(place)
        due: dict[int, list[str]] = {}
        for name, gradient in self.structure.gradients.items():
            last = max([made[gradient], *readers.get(name, [])])
            due.setdefault(last, []).append(name)
        return due


def _source(name: str, viewed: Mapping[str, str]) -> str:
    while name in viewed:
        name = viewed[name]
    return name


def _checked(name: str, array: Array, shape: tuple[int, ...], dtype: int) -> Array:
    if array.shape != shape:
        raise ModelError(f"the weights give {name!r} shape {list(array.shape)}, but the model has {list(shape)}")
    return array.astype(helper.tensor_dtype_to_np_dtype(dtype))
