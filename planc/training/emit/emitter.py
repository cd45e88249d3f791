"""The one place where a training graph's nodes, names and constants are made, each tensor with its shape and dtype.

The finished graph then carries `value_info` for every intermediate. Equal constants are one initializer.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import annotate_node
from planc.graph.operators import VIEWS
from planc.kernels import Attribute, Operator, TensorType, function_of
from planc.kernels.dropout import KEY
from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT
from planc.kernels.operator import DOMAIN
from planc.training.emit.finite import Finiteness

Shape = tuple[int, ...]
Array = npt.NDArray[Any]

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types whose sums are accumulated in float32."""

SHARED_BYTES = 1 << 10
"""Constants of the forward model up to this size are shared with equal ones that rules need."""

RANDOM_KEY = "random.key"
"""Name of the state that holds seed and step of random operators."""


@dataclass(frozen=True, slots=True)
class Var:
    """One tensor: its name, concrete shape and ONNX element type."""

    name: str
    shape: Shape
    dtype: int

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """The layer and phase that emitted nodes belong to."""

    layer: str
    kind: str
    phase: str


@dataclass
class Emitter:
    """Grows a list of nodes in execution order; `values` knows every tensor by name."""

    values: dict[str, Var] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    fixed: Mapping[str, TensorProto] = field(default_factory=dict)
    """Initializers of the forward model that are constants, not parameters."""
    group: LayerGroup = LayerGroup("model", "model", "forward")
    inner_products: dict[str, tuple[Var, Var]] = field(default_factory=dict)
    """By the name of a gradient dY: two tensors whose product sums to the same as dY Y does, along their last axis."""
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    """What planc's own operators among the nodes compute, by operator type."""
    ranks: int = 1
    """How many ranks run the step at once, each on a batch of its own."""
    gathered: list[tuple[Var, Var]] = field(default_factory=list)
    """Statistics of this rank's batch, and the tensor of those of all ranks, which `planc.training.ranks` makes."""
    ignored_labels: dict[str, int] = field(default_factory=dict)
    """By the name of a tensor of labels: the label that counts for nothing."""
    _halves: dict[str, Var] = field(default_factory=dict)
    finite: Finiteness = field(default_factory=Finiteness)
    _constants: dict[tuple[int, Shape, bytes], Var] = field(default_factory=dict)
    _scalars: dict[tuple[float, int, int], Var] = field(default_factory=dict)
    _templates: dict[LayerGroup, onnx.NodeProto] = field(default_factory=dict)
    _zeros: set[str] = field(default_factory=set)
    _views: dict[str, Var] = field(default_factory=dict)
    _transposes: dict[str, tuple[Var, Shape, LayerGroup]] = field(default_factory=dict)
    _node_names: set[str] = field(default_factory=set)
    _serial: dict[str, int] = field(default_factory=dict)
    _read_backward: set[str] = field(default_factory=set)

    # --- state of the whole step

    def random_key(self) -> Var:
        """Seed and step, int64 [2], which random operators make their numbers of; the step then has them as state."""
        return self.values.setdefault(RANDOM_KEY, Var(RANDOM_KEY, KEY.shape, KEY.dtype))

    # --- constants

    def __post_init__(self) -> None:
        for name, tensor in self.fixed.items():
            if tensor.ByteSize() <= SHARED_BYTES:
                array = numpy_helper.to_array(tensor)
                self._constants.setdefault((tensor.data_type, array.shape, array.tobytes()), self.values[name])

    def constant(self, array: Array) -> Var:
        """The initializer that holds `array`; equal arrays share one."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._fresh_value(f"constant.{len(self._constants)}")
            self.initializers[name] = numpy_helper.from_array(array, name)
            self._constants[key] = self.values[name] = Var(name, array.shape, dtype)
        return self._constants[key]

    def ints(self, numbers: Iterable[int]) -> Var:
        """An int64 vector."""
        return self.constant(np.array(list(numbers), np.int64))

    def full(self, shape: Shape, number: float, dtype: int) -> Var:
        """A constant of `shape` whose elements all equal `number`."""
        return self.constant(np.full(shape, number, helper.tensor_dtype_to_np_dtype(dtype)))

    def scalar_for(self, number: float, like: Var) -> Var:
        """`number` as a tensor of the rank and dtype of `like`.

        The rank matches because ONNX Runtime's CPU broadcast of [O, I, 1, 1] against shape () or [1] is about a
        hundred times slower than against [1, 1, 1, 1].
        """
        key = (number, like.rank, like.dtype)
        if key not in self._scalars:
            self._scalars[key] = self.full((1,) * like.rank, number, like.dtype)
        return self._scalars[key]

    def zeros(self, shape: Shape, dtype: int) -> Var:
        """A tensor of zeros made when the step runs, not stored in the model."""
        value = helper.make_tensor("value", dtype, [1], [0.0])
        made = self.op("ConstantOfShape", [self.ints(shape)], shape, dtype, value=value)
        self._zeros.add(made.name)
        return made

    def scattered_onto(self, base: Var, scattered: Var) -> bool:
        """Let the last node, where it adds rows onto zeros and made `scattered`, add onto `base` instead.

        A tied embedding then needs neither the zeros nor the sum, each as large as the table.
        """
        node = self.nodes[-1]
        if node.output[0] != scattered.name or base.dtype != scattered.dtype:
            return False
        if node.op_type == "ScatterElements" and node.input[0] in self._zeros:
            node.input[0] = base.name
            return True
        if node.domain == DOMAIN and node.op_type.startswith(f"{EMBEDDING_GRADIENT.name}_") and len(node.input) == 2:
            self.nodes.pop()
            operands = [*(self.values[name] for name in node.input), base]
            self.kernel(EMBEDDING_GRADIENT, operands, [scattered.name], count=scattered.shape[0])
            return True
        return False

    def known_array(self, name: str) -> Array | None:
        """The value of a constant, None for what is computed or changes."""
        tensor = self.initializers.get(name, self.fixed.get(name))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def known_scalar(self, value: Var) -> float | None:
        """The number that a one-element constant holds, None for anything else."""
        known = self.known_array(value.name) if value.size == 1 else None
        return None if known is None else float(known.item())

    def _known(self, name: str) -> float | None:
        return self.known_scalar(self.values[name]) if name in self.values else None

    # --- nodes

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Var | None],
        outputs: Sequence[tuple[Shape, int] | None],
        names: Sequence[str | None] = (),
        **attributes: Any,
    ) -> tuple[Var, ...]:
        """Append one node; `outputs` holds (shape, dtype) of each output, None for one left out.

        `names` fixes the names of the first outputs. Returns the values of the outputs that are present.
        """
        name = self._fresh_node(op_type)
        made: list[Var] = []
        output_names: list[str] = []
        for position, spec in enumerate(outputs):
            if spec is None:
                output_names.append("")
                continue
            given = names[position] if position < len(names) else None
            output = given or self._fresh_value(name if position == 0 else f"{name}.{position}")
            output_names.append(output)
            self.values[output] = value = Var(output, tuple(spec[0]), spec[1])
            made.append(value)
        node = onnx.NodeProto()
        node.CopyFrom(self._template())
        node.op_type, node.name = op_type, name
        node.input.extend([v.name if v else "" for v in inputs])
        node.output.extend(output_names)
        if attributes:
            node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        self.finite.note(op_type, node.input, [v.name for v in made], self._known, attributes)
        if self.group.phase == "backward" and op_type != "Reshape":
            self._read_backward.update(self._views.get(v.name, v).name for v in inputs if v)
        return tuple(made)

    def kernel(
        self, operator: Operator, inputs: Sequence[Var], names: Sequence[str | None] = (), **attributes: Attribute
    ) -> tuple[Var, ...]:  # fmt: skip
        """One node of planc's own `operator`; the model then carries the function that it computes.

        Raises ModelError for operands that do not fit the operator.
        """
        call = operator.call([TensorType(v.dtype, v.shape) for v in inputs], **attributes)
        function = function_of(call)
        self.functions[function.name] = function
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in call.attributes.items()}
        made = self.emit(function.name, inputs, [(t.shape, t.dtype) for t in call.outputs], names, **given)
        self.nodes[-1].domain = DOMAIN
        return made

    def kept_anyway(self, a: Var) -> bool:
        """Whether the backward phase, as far as it is emitted, already reads `a` or a view of it."""
        return self._views.get(a.name, a).name in self._read_backward

    def forget_views(self) -> None:
        """Views and transposes known so far are no longer made from: the nodes are about to be written anew."""
        self._views.clear()
        self._transposes.clear()

    def remember_view(self, node: onnx.NodeProto) -> None:
        """A Reshape that is there already is a view of what it reads."""
        self._views[node.output[0]] = self.viewed(self.values[node.input[0]])

    def viewed(self, a: Var) -> Var:
        """The tensor that `a` is a view of; `a` itself where it is none."""
        return self._views.get(a.name, a)

    def _template(self) -> onnx.NodeProto:
        """A node with the annotation of the current group, made once per group: most of a node's cost."""
        if self.group not in self._templates:
            self._templates[self.group] = node = onnx.NodeProto()
            annotate_node(node, self.group.layer, self.group.kind, self.group.phase)
        return self._templates[self.group]

    def adopt(self, node: onnx.NodeProto) -> None:
        """Append a node of the forward model as it stands; its outputs are known values."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = unique_name(node.name, self._node_names)
        self._node_names.add(copy.name)
        annotate_node(copy, self.group.layer, self.group.kind, self.group.phase)
        self.nodes.append(copy)
        if copy.op_type == "Cast":
            self._note_widening(self.values[copy.input[0]], self.values[copy.output[0]])
        elif copy.op_type in VIEWS and copy.input[0] in self._halves:
            self._halves[copy.output[0]] = self._halves[copy.input[0]]
        self.finite.note(node.op_type, node.input, node.output, self._known, {})

    def op(
        self, op_type: str, inputs: Sequence[Var | None], shape: Shape, dtype: int | None = None,
        name: str | None = None, **attributes: Any,
    ) -> Var:  # fmt: skip
        """One node with one output of `shape`; its dtype is that of the first input unless given."""
        if dtype is None:
            first = next(v for v in inputs if v is not None)
            dtype = first.dtype
        return self.emit(op_type, inputs, [(shape, dtype)], [name], **attributes)[0]

    def _note_widening(self, a: Var, made: Var) -> None:
        if a.dtype in HALVES and made.dtype == TensorProto.FLOAT:
            self._halves[made.name] = a

    # --- names

    def _fresh_value(self, wanted: str) -> str:
        return unique_name(wanted, self.values)

    def _fresh_node(self, op_type: str) -> str:
        stem = f"{self.group.layer}.{self.group.phase}.{op_type}"
        serial = self._serial[stem] = self._serial.get(stem, 0) + 1
        name = unique_name(stem if serial == 1 else f"{stem}.{serial}", self._node_names)
        self._node_names.add(name)
        return name


def unique_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or where that is taken, it with the least number behind it that is free."""
    name, serial = wanted, 2
    while name in taken:
        name, serial = f"{wanted}_{serial}", serial + 1
    return name
