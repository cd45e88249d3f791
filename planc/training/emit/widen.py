"""Operators for which a device has no kernel in half precision: they compute in float32, between Casts of the graph.

So the casts are nodes like any other: planned, measured, and on a card joined with the element-wise operators beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from planc.graph.annotations import annotate_like, node_annotation
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import HALVES
from planc.training.emit.emitter import unique_name

_MOVING = frozenset(
    {
        "Cast", "Concat", "Constant", "ConstantOfShape", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
        "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that compute nothing; ScatterElements and ScatterND as far as they do not add."""

_CARD_BFLOAT16 = frozenset(
    {
        "Abs", "Add", "Div", "Erf", "Exp", "Expand", "Gemm", "LayerNormalization", "MatMul", "Mul", "Neg", "Relu",
        "Sigmoid", "Softmax", "Sqrt", "Sub", "Tanh", "Where",
    }
)  # fmt: skip
"""What ONNX Runtime 1.31's CUDA provider computes in bfloat16, of the operators that training graphs are made of."""

_NATIVE: Mapping[tuple[str, int], frozenset[str] | None] = {
    ("cpu", TensorProto.FLOAT16): _MOVING,
    ("cpu", TensorProto.BFLOAT16): _MOVING,
    ("cuda", TensorProto.FLOAT16): None,
    ("cuda", TensorProto.BFLOAT16): _MOVING | _CARD_BFLOAT16,
}
"""Operators with kernels by device kind and type; None: all."""


def widen(model: onnx.ModelProto, device: str) -> onnx.ModelProto:
    """Let a typed training graph's operators compute in float32 where `device` lacks them in half precision, in place."""
    work = _Widening(model, device)
    if HALVES & set(work.types.values()):
        work.run()
    return model


def without_kernel(nodes: Iterable[onnx.NodeProto], types: Mapping[str, int], device: str) -> onnx.NodeProto | None:
    """The first node that reads or makes halves for which `device` has no kernel; `types` are element types by name."""
    return next((node for node in nodes if not _is_native(node, types, device)), None)


def _is_native(node: onnx.NodeProto, types: Mapping[str, int], device: str) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return True
    halves = {types.get(name, 0) for name in (*node.input, *node.output)} & HALVES
    adds = any(a.name == "reduction" and a.s not in (b"", b"none") for a in node.attribute)
    for dtype in halves:
        native = _NATIVE[device, dtype]
        if native is not None and (adds or node.op_type not in native):
            return False
    return True


def _make_float(node: onnx.NodeProto) -> None:
    """An operator that is told the type of what it makes, as generators are, makes float32."""
    for attribute in node.attribute:
        if attribute.name == "dtype" and attribute.i in HALVES:
            attribute.i = TensorProto.FLOAT


@dataclass
class _Widening:
    """The pass: element types by tensor, and the widened copies that the current layer has already."""

    model: onnx.ModelProto
    device: str
    infos: dict[str, onnx.ValueInfoProto] = field(init=False)
    types: dict[str, int] = field(init=False)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    wide: dict[str, str] = field(default_factory=dict)
    layer: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.infos = {i.name: i for i in (*graph.input, *graph.value_info, *graph.output)}
        self.types = {name: info.type.tensor_type.elem_type for name, info in self.infos.items()}
        self.types |= {t.name: t.data_type for t in graph.initializer}
        self.shapes = {t.name: list(t.dims) for t in graph.initializer}

    def run(self) -> None:
        """Rewrite the nodes."""
        for node in self.model.graph.node:
            layer = node_annotation(node)
            if layer is None or layer != self.layer:
                self.layer, self.wide = layer, {}
            if _is_native(node, self.types, self.device):
                self.nodes.append(node)
            else:
                self._surround(node)
        replace_nodes(self.model.graph, self.nodes)

    def _surround(self, node: onnx.NodeProto) -> None:
        """The node on float32 copies of its half inputs; its half outputs are rounded from float32 ones."""
        for position, name in enumerate(node.input):
            if self.types.get(name, 0) in HALVES:
                node.input[position] = self._widened(name, node)
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            dtype = self.types.get(name, 0)
            if dtype in HALVES:
                _make_float(node)
                node.output[position] = self._declare(name)
                self.nodes.append(self._cast(node.output[position], name, dtype, node))

    def _widened(self, name: str, reader: onnx.NodeProto) -> str:
        if name not in self.wide:
            self.wide[name] = self._declare(name)
            self.nodes.append(self._cast(name, self.wide[name], TensorProto.FLOAT, reader))
        return self.wide[name]

    def _declare(self, name: str) -> str:
        """A new float32 tensor of the shape of another."""
        wanted = unique_name(f"{name}.float32", self.types)
        if name in self.infos:
            info = onnx.ValueInfoProto.FromString(self.infos[name].SerializeToString())
            info.name, info.type.tensor_type.elem_type = wanted, TensorProto.FLOAT
        else:
            info = helper.make_tensor_value_info(wanted, TensorProto.FLOAT, self.shapes[name])
        self.model.graph.value_info.append(info)
        self.types[wanted] = TensorProto.FLOAT
        return wanted

    @staticmethod
    def _cast(source: str, output: str, dtype: int, like: onnx.NodeProto) -> onnx.NodeProto:
        """A Cast in the layer of `like`."""
        node = helper.make_node("Cast", [source], [output], name=f"{like.name}.{output}", to=dtype)
        annotate_like(node, like)
        return node
