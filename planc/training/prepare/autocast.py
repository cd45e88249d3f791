"""Mixed precision as users know it: which operators run in half precision, by the lists of `torch.autocast`.

The lists are those of PyTorch 2.13 for CUDA (`ATen/autocast_mode.h`), by ONNX operator. Products and convolutions run in
the half type; what loses too much there, as exponentials, sums, norms and losses do, in float32; everything else in the
type of what it reads, the widest where that differs. Parameters stay float32: a Cast, a layer of its own, narrows each for
its readers, cheap to recompute, so that a plan need not keep the narrow copy.

A value is narrowed in the layer that makes it, so that only the narrow copy crosses layers, and widened in the layer
that reads it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from planc.graph.annotations import annotate_like, annotate_node, node_annotation
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import HALVES
from planc.training.emit.emitter import unique_name
from planc.training.emit.opset import BRAIN_OPSET
from planc.training.prepare.casts import rounded

HALF_OPERATORS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "GRU", "LSTM", "MatMul", "PRelu", "RNN"}
)
"""Run in the half type, whatever they read."""

WIDE_OPERATORS = frozenset(
    {
        "Acos", "Asin", "Cosh", "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LRN",
        "LayerNormalization", "Log", "LogSoftmax", "NegativeLogLikelihoodLoss", "Pow", "RMSNormalization", "Reciprocal",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Resize",
        "Sinh", "Softmax", "SoftmaxCrossEntropyLoss", "Softplus", "Tan", "Upsample",
    }
)  # fmt: skip
"""Run in float32, and give float32. InstanceNormalization is among them because the operator has one type for all."""

_APART = {"BatchNormalization": (1, 2, 3, 4), "Resize": (1, 2), "Upsample": (1,), "Dropout": (1,)}
"""Input positions of a type of their own: statistics and settings."""

_STATISTICS = {"BatchNormalization": (1, 2)}
"""Output positions likewise."""

_UNTYPED = frozenset({"Cast", "CastLike", "Constant", "ConstantOfShape", "OneHot", "Shape", "Size"})
"""Operators that name the type of their output themselves."""


def autocast(model: onnx.ModelProto, dtype: int, trained: Collection[str]) -> None:
    """Let a float32 `model` with inferred shapes compute in the half type `dtype` where autocast would, in place.

    Its inferred types are dropped. An output of the model that comes to be half is declared so. float32 constants that
    half-precision operators read are rounded, but what lies beyond the type's range, as a mask of -1e9 does in float16,
    becomes its extreme.
    """
    work = _Autocast(model, dtype, frozenset(trained))
    for node in model.graph.node:
        work.retype(node)
    work.finish()


@dataclass
class _Autocast:
    """The pass: `types` are the float types so far, `made` the converted copies by (name, type, layer of a widening)."""

    model: onnx.ModelProto
    dtype: int
    trained: frozenset[str]
    types: dict[str, int] = field(init=False)
    constants: dict[str, TensorProto] = field(init=False)
    products: set[str] = field(default_factory=set)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[tuple[str, int, object], str] = field(default_factory=dict)
    heads: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        infos = (*graph.input, *graph.value_info, *graph.output)
        self.types = {i.name: i.type.tensor_type.elem_type for i in infos}
        self.types |= {t.name: t.data_type for t in graph.initializer}
        state = self.trained | {
            n for node in graph.node for i in _APART.get(node.op_type, ()) for n in node.input[i : i + 1]
        }
        self.constants = {t.name: t for t in graph.initializer if t.name not in state}

    def retype(self, node: onnx.NodeProto) -> None:
        """Append the node, its float inputs converted to the type that it is to run in."""
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        read = [i for i in self._float_inputs(copy) if i not in _APART.get(copy.op_type, ())]
        if copy.op_type == "CastLike":
            self.types[copy.output[0]] = self.types[copy.input[1]]
        elif read and copy.op_type not in _UNTYPED:
            chosen = self._type_of(copy, read)
            for position in read:
                copy.input[position] = self._converted(copy.input[position], chosen, copy)
            self._declare(copy, chosen)
        self.nodes.append(copy)

    def _float_inputs(self, node: onnx.NodeProto) -> list[int]:
        floats = HALVES | {TensorProto.FLOAT}
        return [i for i, name in enumerate(node.input) if name and self.types.get(name) in floats]

    def _type_of(self, node: onnx.NodeProto, read: Iterable[int]) -> int:
        """The type that the node runs in; a scalar constant takes part in no promotion, as a Python number does not."""
        if node.op_type in HALF_OPERATORS or self._is_bias(node):
            return self.dtype if _knows(node.op_type, self.dtype) else TensorProto.FLOAT
        if node.op_type in WIDE_OPERATORS:
            return TensorProto.FLOAT
        deciding = {self.types[node.input[i]] for i in read if not self._is_number(node.input[i])}
        half = deciding == {self.dtype} and _knows(node.op_type, self.dtype)
        return self.dtype if half else TensorProto.FLOAT

    def _is_number(self, name: str) -> bool:
        return name in self.constants and int(np.prod(self.constants[name].dims)) == 1

    def _is_bias(self, node: onnx.NodeProto) -> bool:
        """Whether the node adds a parameter to a product: together they are torch's `linear`."""
        if node.op_type != "Add":
            return False
        return any(a in self.products and b in self.trained for a, b in (node.input, reversed(node.input)))

    def _declare(self, node: onnx.NodeProto, chosen: int) -> None:
        for position, name in enumerate(node.output):
            if self.types.get(name) == TensorProto.FLOAT and position not in _STATISTICS.get(node.op_type, ()):
                self.types[name] = chosen
        if node.op_type in ("MatMul", "Gemm") and chosen == self.dtype:
            self.products.update(node.output)

    # --- conversions

    def _converted(self, name: str, to: int, reader: onnx.NodeProto) -> str:
        """`name` in type `to`: a rounded constant, or the output of a Cast in the layer where it belongs."""
        if self.types[name] == to:
            return name
        annotation = node_annotation(reader)
        layer = None if to != TensorProto.FLOAT else annotation
        key = (name, to, layer if annotation is not None or to != TensorProto.FLOAT else len(self.nodes))
        if key not in self.made:
            self.made[key] = self._constant(name, to) if name in self.constants else self._cast(name, to, reader)
            self.types[self.made[key]] = to
        return self.made[key]

    def _constant(self, name: str, to: int) -> str:
        array = numpy_helper.to_array(self.constants[name])
        copy = numpy_helper.from_array(rounded(array, to), self._fresh(name, to))
        self.model.graph.initializer.append(copy)
        return copy.name

    def _cast(self, name: str, to: int, reader: onnx.NodeProto) -> str:
        """A widening goes before its reader; a narrowing behind the value's maker, or as a layer of its own before the
        layer of the first reader."""
        output = self._fresh(name, to)
        node = helper.make_node("Cast", [name], [output], name=output, to=to)
        if to == TensorProto.FLOAT:
            annotate_like(node, reader)
            at = len(self.nodes)
        else:
            maker = next((i for i, made in enumerate(self.nodes) if name in made.output), None)
            if maker is None:
                annotate_node(node, output, "cast", "forward")
                at = self._start_of_layer(reader)
            else:
                annotate_like(node, self.nodes[maker])
                at = maker + 1
        self.nodes.insert(at, node)
        return output

    def _start_of_layer(self, reader: onnx.NodeProto) -> int:
        """Where the run of nodes that belong to the reader's layer begins."""
        layer, at = node_annotation(reader), len(self.nodes)
        while layer is not None and at and node_annotation(self.nodes[at - 1]) == layer:
            at -= 1
        return at

    def _fresh(self, name: str, to: int) -> str:
        return unique_name(f"{name}.{'wide' if to == TensorProto.FLOAT else 'narrow'}", self.types)

    def finish(self) -> None:
        """Put the nodes in place; types are to be inferred anew."""
        graph = self.model.graph
        replace_nodes(graph, self.nodes)
        del graph.value_info[:]
        for info in graph.output:
            info.type.tensor_type.elem_type = self.types[info.name]


@cache
def _knows(op_type: str, dtype: int) -> bool:
    """Whether the standard operator is defined for the half type."""
    try:
        schema = defs.get_schema(
            op_type, BRAIN_OPSET if dtype == TensorProto.BFLOAT16 else defs.onnx_opset_version(), ""
        )
    except defs.SchemaError:  # of a newer opset: expanded later, in the types that its inputs have
        return True
    name = schema.inputs[0].type_str
    allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == name), [name])
    return f"tensor({helper.tensor_dtype_to_np_dtype(dtype).name})" in allowed
