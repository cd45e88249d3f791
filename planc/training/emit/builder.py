"""Emits ONNX nodes of known static shape: the one place where the training graph's nodes, names and constants are made.

Every helper returns a `Value` with its concrete shape and dtype, so that rules can use sizes and the finished graph
carries `value_info` for every intermediate. Helpers leave out what would be redundant: a Reshape of a Reshape reads
the original, an identity Transpose or Cast is not emitted, equal constants are one initializer.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
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
from planc.kernels.operator import DOMAIN
from planc.training.emit.finite import Finiteness

Shape = tuple[int, ...]
Array = npt.NDArray[Any]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types whose sums are accumulated in float32."""

SHARED_BYTES = 1 << 10
"""Constants of the forward model up to this size are shared with equal ones that rules need."""

RANDOM_KEY = "random.key"
"""Name of the state that holds seed and step of random operators."""

MAX_CONCAT_INPUTS = 32
"""CUDA's Concat refuses more inputs than this while a CUDA graph is captured (ONNX Runtime 1.31.1 on an H100)."""


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


Operand = Var | float


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """The layer and phase that emitted nodes belong to."""

    layer: str
    kind: str
    phase: str


@dataclass
class Builder:
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
        """Let the last node, where it is a ScatterElements onto zeros that made `scattered`, add onto `base` instead.

        A tied embedding then needs neither the zeros nor the sum, each as large as the table.
        """
        node = self.nodes[-1]
        fits = node.op_type == "ScatterElements" and node.output[0] == scattered.name and node.input[0] in self._zeros
        if fits and base.dtype == scattered.dtype:
            node.input[0] = base.name
            return True
        return False

    def known_scalar(self, value: Var) -> float | None:
        """The number that a one-element constant holds, None for anything else."""
        if value.size != 1:
            return None
        tensor = self.initializers.get(value.name, self.fixed.get(value.name))
        if tensor is None:
            return None
        return float(numpy_helper.to_array(tensor).item())

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
        copy.name = _unique(node.name, self._node_names)
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

    # --- element-wise

    def _binary(self, op_type: str, a: Operand, b: Operand, dtype: int | None = None, name: str | None = None) -> Var:
        if not isinstance(a, Var):
            if not isinstance(b, Var):
                raise TypeError("one operand must be a Value")
            a = self.scalar_for(a, b)
        elif not isinstance(b, Var):
            b = self.scalar_for(b, a)
        shape = a.shape if a.shape == b.shape else np.broadcast_shapes(a.shape, b.shape)
        return self.op(op_type, [a, b], shape, dtype or a.dtype, name)

    def add(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Add", a, b, name=name)

    def sub(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Sub", a, b, name=name)

    def mul(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        if b == 1.0 and isinstance(a, Var) and name is None:
            return a
        return self._binary("Mul", a, b, name=name)

    def div(self, a: Operand, b: Operand, name: str | None = None) -> Var:
        return self._binary("Div", a, b, name=name)

    def pow(self, a: Var, exponent: float) -> Var:
        return self._binary("Pow", a, exponent)

    def compare(self, op_type: str, a: Operand, b: Operand) -> Var:
        """Greater, Less, Equal, ...: a boolean tensor."""
        return self._binary(op_type, a, b, TensorProto.BOOL)

    def unary(self, op_type: str, a: Var, name: str | None = None, **attributes: Any) -> Var:
        """Exp, Neg, Sqrt, ...: same shape and dtype."""
        return self.op(op_type, [a], a.shape, name=name, **attributes)

    def where(self, condition: Var, a: Operand, b: Operand) -> Var:
        like = a if isinstance(a, Var) else b
        if not isinstance(like, Var):
            raise TypeError("one branch must be a Value")
        a, b = (v if isinstance(v, Var) else self.scalar_for(v, like) for v in (a, b))
        return self.op("Where", [condition, a, b], np.broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)

    def cast(self, a: Var, dtype: int, name: str | None = None) -> Var:
        if a.dtype == dtype and name is None:
            return a
        half = self.unwidened(a)
        if half.dtype == dtype and name is None:  # narrowing gives back what was widened
            return half
        made = self.op("Cast", [a], a.shape, dtype, name, to=dtype)
        self._note_widening(a, made)
        return made

    def _note_widening(self, a: Var, made: Var) -> None:
        if a.dtype in HALVES and made.dtype == TensorProto.FLOAT:
            self._halves[made.name] = a

    def unwidened(self, a: Var) -> Var:
        """The half-precision tensor that a Cast made float32 `a` of, in the shape of `a`; `a` itself if there is none.

        For operators that read either type and compute in float32 anyway.
        """
        half = self._halves.get(self._views.get(a.name, a).name)
        return a if half is None else self.reshape(half, a.shape)

    def wide(self, a: Var) -> Var:
        """`a` in float32 where it is half precision, for sums and statistics."""
        return self.cast(a, TensorProto.FLOAT) if a.dtype in HALVES else a

    # --- reductions

    def reduce(self, op_type: str, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        """ReduceSum, ReduceMean, ... over `axes`."""
        dropped = {axis % a.rank for axis in axes}
        if not dropped:
            return a
        sizes = [(1 if i in dropped else d) for i, d in enumerate(a.shape) if keepdims or i not in dropped]
        return self.op(op_type, [a, self.ints(sorted(dropped))], tuple(sizes), keepdims=int(keepdims))

    def sum(self, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        return self.reduce("ReduceSum", a, axes, keepdims)

    def mean(self, a: Var, axes: Sequence[int], keepdims: bool = True) -> Var:
        return self.reduce("ReduceMean", a, axes, keepdims)

    # --- shape

    def reshape(self, a: Var, shape: Sequence[int], name: str | None = None) -> Var:
        """A view of `a` with concrete `shape`, taken from the tensor that `a` itself may be a view of."""
        shape = tuple(shape)
        source = self._views.get(a.name, a)
        if name is None and shape in (a.shape, source.shape):
            return a if shape == a.shape else source
        view = self.op("Reshape", [source, self.ints(shape)], shape, name=name)
        self._views[view.name] = source
        return view

    def local_view(self, a: Var) -> Var:
        """`a`, or where `a` is a view, a view of the same tensor made in the current group.

        A layer of the backward phase then reads the viewed tensor itself, and no view has to be kept beside it.
        """
        source = self._views.get(a.name)
        if source is None:
            return a
        view = self.op("Reshape", [source, self.ints(a.shape)], a.shape)
        self._views[view.name] = source
        return view

    def transpose(self, a: Var, perm: Sequence[int]) -> Var:
        """`a` with its axes permuted; a chain of Transposes inside one group becomes one."""
        perm = tuple(perm)
        if a.name in self._transposes and self._transposes[a.name][2] == self.group:
            source, first, _ = self._transposes[a.name]
            a, perm = source, tuple(first[axis] for axis in perm)
        shape = tuple(a.shape[axis] for axis in perm)
        moved = [axis for axis in perm if a.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(a, shape)
        result = self.op("Transpose", [a], shape, perm=perm)
        self._transposes[result.name] = (a, perm, self.group)
        return result

    def swap_last(self, a: Var) -> Var:
        """`a` with its last two axes exchanged."""
        return self.transpose(a, (*range(a.rank - 2), a.rank - 1, a.rank - 2))

    def concat(self, parts: Sequence[Var], axis: int, name: str | None = None) -> Var:
        """The concatenation along `axis`, as a tree where there are more parts than one Concat should take."""
        if len(parts) == 1 and name is None:
            return parts[0]
        if len(parts) > MAX_CONCAT_INPUTS:
            chunks = [parts[i : i + MAX_CONCAT_INPUTS] for i in range(0, len(parts), MAX_CONCAT_INPUTS)]
            return self.concat([self.concat(chunk, axis) for chunk in chunks], axis, name)
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.op("Concat", list(parts), tuple(shape), name=name, axis=axis)

    def slice(self, a: Var, ranges: Mapping[int, tuple[int, int, int]]) -> Var:
        """`a` restricted along each axis of `ranges` to (start, end, positive step), half-open."""
        kept = {axis: r for axis, r in ranges.items() if r != (0, a.shape[axis], 1)}
        if not kept:
            return a
        shape = list(a.shape)
        for axis, (start, end, step) in kept.items():
            shape[axis] = len(range(start, end, step))
        starts, ends, steps = (self.ints(column) for column in zip(*kept.values(), strict=True))
        return self.op("Slice", [a, starts, ends, self.ints(kept), steps], tuple(shape))

    def flip(self, a: Var, axes: Sequence[int]) -> Var:
        """`a` reversed along each of `axes` that is longer than one."""
        axes = [axis for axis in axes if a.shape[axis] > 1]
        if not axes:
            return a
        starts, ends = (self.ints([number] * len(axes)) for number in (-1, -(2**31)))
        return self.op("Slice", [a, starts, ends, self.ints(axes), starts], a.shape)

    def pad(self, a: Var, before: Sequence[int], after: Sequence[int]) -> Var:
        """`a` with zeros added at both ends of each axis; negative amounts crop."""
        if not any(before) and not any(after):
            return a
        shape = tuple(d + p + q for d, p, q in zip(a.shape, before, after, strict=True))
        return self.op("Pad", [a, self.ints([*before, *after])], shape)

    def expand(self, a: Var, shape: Sequence[int]) -> Var:
        return a if a.shape == tuple(shape) else self.op("Expand", [a, self.ints(shape)], tuple(shape))

    def unbroadcast(self, a: Var, shape: Shape) -> Var:
        """The sum of `a` over the axes along which a tensor of `shape` was broadcast to it."""
        lead = a.rank - len(shape)
        stretched = [lead + i for i, d in enumerate(shape) if d == 1 and a.shape[lead + i] != 1]
        return self.reshape(self.sum(a, [*range(lead), *stretched]), shape)

    # --- products

    def matmul(self, a: Var, b: Var) -> Var:
        """Batched matrix product of tensors of rank two or more."""
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.op("MatMul", [a, b], (*batch, a.shape[-2], b.shape[-1]))

    def gemm(self, a: Var, b: Var, trans_a: bool = False, trans_b: bool = False, alpha: float = 1.0) -> Var:
        """alpha · op(a) · op(b) of two matrices."""
        attributes: dict[str, Any] = {"transA": 1} if trans_a else {}
        attributes |= {"transB": 1} if trans_b else {}
        attributes |= {"alpha": alpha} if alpha != 1.0 else {}
        return self.op("Gemm", [a, b], (a.shape[int(trans_a)], b.shape[int(not trans_b)]), **attributes)

    # --- names

    def _fresh_value(self, wanted: str) -> str:
        return _unique(wanted, self.values)

    def _fresh_node(self, op_type: str) -> str:
        stem = f"{self.group.layer}.{self.group.phase}.{op_type}"
        serial = self._serial[stem] = self._serial.get(stem, 0) + 1
        name = _unique(stem if serial == 1 else f"{stem}.{serial}", self._node_names)
        self._node_names.add(name)
        return name


def _unique(wanted: str, taken: Iterable[str]) -> str:
    if wanted not in (names := taken if isinstance(taken, (dict, set)) else set(taken)):
        return wanted
    serial = 2
    while f"{wanted}_{serial}" in names:
        serial += 1
    return f"{wanted}_{serial}"
