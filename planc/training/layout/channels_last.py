"""Puts stretches of convolutions channels last: [N, C, ...] becomes [N, ..., C] from the first convolution, norm or pool
on, through whatever works element by element or names its axes, up to the first operator that does neither.

Transposes stay where a stretch begins and ends, and of weights with their gradients unless these stay as they are
(`weights_first`, where a library brings weights into a layout of its own anyhow). A transposed tensor is made anew in
every layer that reads it, so that none is kept from the forward phase to the backward one.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx

from planc.graph.annotations import node_annotation
from planc.graph.fused import EXPRESSIONS
from planc.kernels import Operator
from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.kernels.channel_sum import CHANNEL_SUM
from planc.kernels.convolution import CONVOLUTION, INPUT_GRADIENT, WEIGHT_GRADIENT, to_first, to_last
from planc.kernels.pooling import AVERAGE_POOL, AVERAGE_POOL_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT, MAX_WINDOW
from planc.kernels.row_sum import ROW_SUM
from planc.kernels.source import C_TYPES
from planc.registry import Registry
from planc.training.emit.builder import Builder, LayerGroup, Var
from planc.training.layout.calls import is_call
from planc.training.registry import attributes_of

_ELEMENTWISE = frozenset(EXPRESSIONS) | {
    "Clip", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Gelu", "Pow", "Max", "Min",
    "Equal", "GreaterOrEqual", "LessOrEqual", "Or", "Log", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Sum", "Mean",
    "IsNaN", "IsInf", "Identity", "Cast",
}  # fmt: skip

_Converter = Callable[["_Stretches", onnx.NodeProto], bool]
_CONVERTERS: Registry[str, _Converter] = Registry("the channels-last form of")


def channels_last(
    b: Builder, nodes: Sequence[onnx.NodeProto], kept: set[str], weights_first: bool
) -> list[onnx.NodeProto]:
    """The nodes with convolutions, their norms and pools channels last; `kept` are read after the step as they are.
    Weights turn as well unless `weights_first`."""
    if not any(node.op_type == "Conv" or is_call(node, anchor) for node in nodes for anchor in _ANCHORS):
        return list(nodes)
    return _Stretches(b, kept, weights_first).converted(nodes)


_OWN: dict[str, Operator] = {
    operator.name: operator
    for operator in (BATCH_NORM, BATCH_NORM_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT, AVERAGE_POOL, AVERAGE_POOL_GRADIENT)
}
"""Operators all of whose tensors, but for vectors of channels, are [N, C, ...]."""

_ANCHORS = (*_OWN, CHANNEL_SUM.name, CONVOLUTION.name, INPUT_GRADIENT.name, WEIGHT_GRADIENT.name)


class _Stretches:
    """The step under conversion. `last` has, by the name of a tensor [N, C, ...], the one made instead, [N, ..., C]."""

    def __init__(self, b: Builder, kept: set[str], weights_first: bool) -> None:
        self.b, self.kept, self.weights_first = b, kept, weights_first
        self.last: dict[str, Var] = {}
        self._local: dict[tuple[str, bool, LayerGroup], Var] = {}

    def converted(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """All nodes, in the order of those given."""
        b = self.b
        b.forget_views()
        del b.nodes[:]
        for node in nodes:
            layer, kind, phase = node_annotation(node) or ("", "", "")
            b.group = LayerGroup(layer, kind, phase)
            if not self._convert(node):
                self._keep(node)
        return list(b.nodes)

    def _convert(self, node: onnx.NodeProto) -> bool:
        name = node.op_type.rpartition("_")[0] if node.domain else node.op_type
        if node.domain and name in _OWN:
            return _own(self, node)
        if not node.domain and name in _ELEMENTWISE:
            return _elementwise(self, node)
        return name in _CONVERTERS and _CONVERTERS[name](self, node)

    def _keep(self, node: onnx.NodeProto) -> None:
        """The node as it is; what it reads of a stretch is transposed back."""
        if not self.last.keys().isdisjoint(node.input):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:]
            copy.input.extend(self.first(name).name if name in self.last else name for name in node.input)
            node = copy
        if node.op_type == "Reshape":
            self.b.remember_view(node)
            node.input[0] = self.b.viewed(self.b.values[node.output[0]]).name
        self.b.nodes.append(node)

    def first(self, name: str) -> Var:
        """The tensor as [N, C, ...]."""
        made = self.last.get(name)
        if made is None:
            return self.b.values[name]
        key = name, False, self.b.group
        if key not in self._local:
            self._local[key] = self.b.transpose(made, to_first(made.rank))
        return self._local[key]

    def of(self, name: str) -> Var:
        """The tensor as [N, ..., C]."""
        if name in self.last:
            return self.last[name]
        key = name, True, self.b.group
        if key not in self._local:
            value = self.b.values[name]
            self._local[key] = self.b.transpose(value, to_last(value.rank))
        return self._local[key]

    def weights(self, name: str) -> Var:
        """Weights, in the layout that convolutions read here."""
        return self.first(name) if self.weights_first else self.of(name)

    @property
    def layout(self) -> dict[str, Any]:
        """The attributes of a convolution's layout."""
        return {"channels_last": 1, "weights_first": int(self.weights_first)}

    def made(self, name: str, value: Var) -> None:
        """`value` [N, ..., C] stands for the tensor of that name."""
        self.last[name] = value
        if name in self.kept:
            self.back(value, name)

    def back(self, value: Var, name: str) -> None:
        """Make the tensor of that name, [N, C, ...], of `value`."""
        perm = to_first(value.rank)
        moved = [axis for axis in perm if value.shape[axis] != 1]
        shape = tuple(value.shape[axis] for axis in perm)
        if moved == sorted(moved):
            self.b.reshape(value, shape, name=name)
        else:
            self.b.op("Transpose", [value], shape, name=name, perm=perm)

    def operand(self, name: str, rank: int) -> Var:
        """An operand that broadcasts against a tensor [N, C, ...] of `rank`, for one [N, ..., C]."""
        value = self.b.values[name]
        if name in self.last or value.size == 1:
            return self.last.get(name, value)
        if value.rank < rank:
            value = self.b.reshape(value, (*[1] * (rank - value.rank), *value.shape))
            return self.b.transpose(value, to_last(rank))
        return self.of(name)


def _own(work: _Stretches, node: onnx.NodeProto) -> bool:
    """An operator of planc's own whose vectors stay and whose other tensors turn."""
    operator, attributes = _OWN[node.op_type.rpartition("_")[0]], attributes_of(node)
    rank = work.b.values[node.input[0]].rank
    if attributes["channels_last"] or rank < 3:
        return False
    inputs = [work.of(name) if work.b.values[name].rank == rank else work.b.values[name] for name in node.input]
    turned = [work.b.values[name].rank == rank for name in node.output]
    names = [None if turns else name for name, turns in zip(node.output, turned, strict=True)]
    made = work.b.kernel(operator, inputs, names, **{**_tuples(attributes), "channels_last": 1})
    for name, value, turns in zip(node.output, made, turned, strict=True):
        if turns:
            work.made(name, value)
    return True


def _tuples(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in attributes.items()}


def _elementwise(work: _Stretches, node: onnx.NodeProto) -> bool:
    """Element by element: turned where one of its full operands is."""
    (name,) = node.output
    value = work.b.values[name]
    full = [i for i in node.input if i in work.last and work.b.values[i].shape == value.shape]
    if not full or value.rank < 3:
        return False
    inputs = [work.operand(i, value.rank) if i else None for i in node.input]
    shape = tuple(value.shape[axis] for axis in to_last(value.rank))
    work.made(name, work.b.op(node.op_type, inputs, shape, value.dtype, **attributes_of(node)))
    return True


def _turn(*names: str) -> Callable[[_Converter], _Converter]:
    """Register how operators turn; the converter says whether it did."""

    def register(converter: _Converter) -> _Converter:
        _CONVERTERS.add(names, converter)
        return converter

    return register


@_turn("Conv")
def _standard_convolution(work: _Stretches, node: onnx.NodeProto) -> bool:
    """The standard operator: planc's own, and the bias as an addition."""
    x, w, y = (work.b.values[name] for name in (*node.input[:2], node.output[0]))
    attributes, n = attributes_of(node), x.rank - 2
    if x.dtype not in C_TYPES or not 1 <= n <= 3 or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    settings: dict[str, Any] = {
        "strides": tuple(attributes.get("strides", [1] * n)), "pads": tuple(attributes.get("pads", [0] * 2 * n)),
        "dilations": tuple(attributes.get("dilations", [1] * n)), "group": int(attributes.get("group", 1)),
        **work.layout,
    }  # fmt: skip
    (made,) = work.b.kernel(CONVOLUTION, [work.of(x.name), work.weights(w.name)], **settings)
    if len(node.input) > 2 and node.input[2]:
        made = work.b.add(made, work.b.reshape(work.b.values[node.input[2]], (*[1] * (n + 1), y.shape[1])))
    work.made(y.name, made)
    return True


@_turn(CONVOLUTION.name, INPUT_GRADIENT.name)
def _convolution(work: _Stretches, node: onnx.NodeProto) -> bool:
    operator = CONVOLUTION if is_call(node, CONVOLUTION.name) else INPUT_GRADIENT
    attributes = {**_tuples(attributes_of(node)), **work.layout}
    image, weights = node.input
    (made,) = work.b.kernel(operator, [work.of(image), work.weights(weights)], **attributes)
    work.made(node.output[0], made)
    return True


@_turn(WEIGHT_GRADIENT.name)
def _weight_gradient(work: _Stretches, node: onnx.NodeProto) -> bool:
    """The gradient is transposed back at once, if need be: the optimizer's state lies as the model has it."""
    attributes, (name,) = {**_tuples(attributes_of(node)), **work.layout}, node.output
    inputs = [work.of(image) for image in node.input]
    (made,) = work.b.kernel(WEIGHT_GRADIENT, inputs, [name if work.weights_first else None], **attributes)
    if not work.weights_first:
        work.back(made, name)
    return True


@_turn(CHANNEL_SUM.name)
def _channel_sum(work: _Stretches, node: onnx.NodeProto) -> bool:
    """The sum of a matrix's rows."""
    x = work.of(node.input[0])
    work.b.kernel(ROW_SUM, [work.b.reshape(x, (x.size // x.shape[-1], x.shape[-1]))], [node.output[0]])
    return True


@_turn("GlobalAveragePool")
def _global_average_pool(work: _Stretches, node: onnx.NodeProto) -> bool:
    x = work.b.values[node.input[0]]
    if x.name not in work.last:
        return False
    n, turned = x.rank - 2, work.of(x.name)
    if prod(x.shape[2:]) <= MAX_WINDOW and x.dtype in C_TYPES and n <= 3:
        settings: dict[str, Any] = {"kernel": x.shape[2:], "strides": (1,) * n, "pads": (0,) * 2 * n, "size": (1,) * n}
        (made,) = work.b.kernel(AVERAGE_POOL, [turned], channels_last=1, **settings)
    else:
        made = work.b.mean(turned, list(range(1, x.rank - 1)))
    work.made(node.output[0], made)
    return True


@_turn("AveragePool")
def _average_pool(work: _Stretches, node: onnx.NodeProto) -> bool:
    x, y, attributes = work.b.values[node.input[0]], work.b.values[node.output[0]], attributes_of(node)
    n, kernel = x.rank - 2, tuple(attributes["kernel_shape"])
    plain = attributes.get("auto_pad", "NOTSET") == "NOTSET" and set(attributes.get("dilations", [1])) == {1}
    if x.name not in work.last or not plain or prod(kernel) > MAX_WINDOW or x.dtype not in C_TYPES:
        return False
    (made,) = work.b.kernel(
        AVERAGE_POOL, [work.of(x.name)], kernel=kernel, strides=tuple(attributes.get("strides", [1] * n)),
        pads=tuple(attributes.get("pads", [0] * 2 * n)), padded=int(attributes.get("count_include_pad", 0)),
        size=y.shape[2:], channels_last=1,
    )  # fmt: skip
    work.made(y.name, made)
    return True


@_turn("Concat")
def _concat(work: _Stretches, node: onnx.NodeProto) -> bool:
    value = work.b.values[node.output[0]]
    if value.rank < 3 or not any(name in work.last for name in node.input):
        return False
    axis = to_last(value.rank).index(attributes_of(node)["axis"] % value.rank)
    work.made(value.name, work.b.concat([work.of(name) for name in node.input], axis))
    return True


@_turn("Slice")
def _slice(work: _Stretches, node: onnx.NodeProto) -> bool:
    """Along axes that are named, forwards."""
    (name,), known = node.output, map(work.b.known_array, node.input[1:])
    value, given = work.last.get(node.input[0]), [array for array in known if array is not None and array.ndim == 1]
    if value is None or len(given) != 4 or min(given[3]) < 1:
        return False
    ranges = {}
    for start, end, axis, step in zip(*(v.tolist() for v in given), strict=True):
        turned = to_last(value.rank).index(axis % value.rank)
        ranges[turned] = slice(start, end, step).indices(value.shape[turned])
    work.made(name, work.b.slice(value, ranges))
    return True


@_turn("Pad")
def _pad(work: _Stretches, node: onnx.NodeProto) -> bool:
    """With any value, on all axes in their order."""
    (name,), value = node.output, work.last.get(node.input[0])
    amounts = work.b.known_array(node.input[1])
    if value is None or amounts is None or len(amounts) != 2 * value.rank or len(node.input) > 3:
        return False
    perm = to_last(value.rank)
    pads = work.b.ints(int(amounts[side + axis]) for side in (0, value.rank) for axis in perm)
    shape = tuple(work.b.values[name].shape[axis] for axis in perm)
    others = [work.b.values[other] if other else None for other in node.input[2:]]
    work.made(name, work.b.op("Pad", [value, pads, *others], shape, **attributes_of(node)))
    return True


@_turn("Split")
def _split(work: _Stretches, node: onnx.NodeProto) -> bool:
    value, axis = work.last.get(node.input[0]), attributes_of(node).get("axis", 0)
    if value is None:
        return False
    parts = [work.b.values[name] for name in node.output]
    specs = [(tuple(part.shape[i] for i in to_last(part.rank)), part.dtype) for part in parts]
    turned = to_last(value.rank).index(axis % value.rank)
    sizes = work.b.ints(shape[turned] for shape, _ in specs)
    for name, made in zip(node.output, work.b.emit("Split", [value, sizes], specs, axis=turned), strict=True):
        work.made(name, made)
    return True


@_turn("Expand")
def _expand(work: _Stretches, node: onnx.NodeProto) -> bool:
    """From one element for each channel to an image of them: a stretch begins here in the backward phase."""
    source, value = work.b.values[node.input[0]], work.b.values[node.output[0]]
    if source.rank != value.rank or value.rank < 3 or source.name not in work.last:
        return False
    work.made(value.name, work.b.expand(work.of(source.name), tuple(value.shape[i] for i in to_last(value.rank))))
    return True


@_turn("Reshape")
def _reshape(work: _Stretches, node: onnx.NodeProto) -> bool:
    """[N, C] as [N, C, 1, ...], which an image of each channel is expanded from: the same bytes either way."""
    source, value = work.b.values[node.input[0]], work.b.values[node.output[0]]
    if value.rank < 3 or source.name in work.last or prod(value.shape[2:]) != 1 or value.name in work.kept:
        return False
    work.b.nodes.append(node)
    work.b.remember_view(node)
    turned = work.b.reshape(source, (value.shape[0], *[1] * (value.rank - 2), value.shape[1]))
    work.last[value.name] = turned
    return True


@_turn("ReduceSum", "ReduceMean")
def _reduce(work: _Stretches, node: onnx.NodeProto) -> bool:
    value, attributes = work.b.values[node.input[0]], attributes_of(node)
    axes = work.b.known_array(node.input[1]) if len(node.input) > 1 else None
    if value.name not in work.last or axes is None or not attributes.get("keepdims", 1):
        return False
    turned = sorted(to_last(value.rank).index(int(axis) % value.rank) for axis in np.ravel(axes))
    work.made(node.output[0], work.b.reduce(node.op_type, work.of(value.name), turned))
    return True


@_turn("Transpose")
def _transpose(work: _Stretches, node: onnx.NodeProto) -> bool:
    """A transpose to or from channels last is none within a stretch."""
    (name,), (out,) = node.input, node.output
    perm = tuple(attributes_of(node)["perm"])
    if name in work.last and perm == to_last(len(perm)):
        work.b.reshape(work.last[name], work.last[name].shape, name=out)
        return True
    return False
