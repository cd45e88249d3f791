"""Consecutive operators as a stand-alone ONNX model in canonical form, so that identical stretches are recognised.

Tensors are renamed by first appearance, attributes sorted and shapes written in, so two stretches that compute the same
function of differently named tensors have equal bytes: they share one cost measurement and one session. Every operator's
output is a graph output, to be bound at its planned address. A view whose source is made inside the stretch appears as
a Reshape onto the same address, which moves no byte and tells ONNX Runtime of the dependency.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.importer.build import ImportedModel

_IR_VERSION = 10


@dataclass(frozen=True)
class SubModel:
    """A stretch of operators. `inputs` and `outputs` list the graph's tensors in the order of the model's t-names.

    `names` maps tensor index to name in `model_bytes`; all listed tensors must be bound.
    """

    model_bytes: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: dict[int, str]

    @cached_property
    def signature(self) -> str:
        """SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.model_bytes).hexdigest()


def element_type(imported: ImportedModel, tensor: int) -> int:
    """ONNX element type code of a tensor."""
    dtype = imported.graph.tensors[tensor].dtype
    return int(getattr(TensorProto, _ONNX_NAMES.get(dtype, dtype.upper())))


_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE", "object": "STRING"}


def sub_model(imported: ImportedModel, start: int, stop: int) -> SubModel:
    """The operators [start, stop) of the graph as a canonical model."""
    return _Canonical(imported).build(start, stop)


class _Canonical:
    def __init__(self, imported: ImportedModel) -> None:
        self.imported = imported
        self.tensors = imported.graph.tensors
        self.names: dict[int, str] = {}
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.initializers: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.written: dict[int, int] = {}

    def build(self, start: int, stop: int) -> SubModel:
        for op in self.imported.graph.ops[start:stop]:
            node = onnx.NodeProto(op_type=op.op_type, domain=op.domain)
            node.attribute.extend(sorted(self.imported.nodes[op.node].attribute, key=lambda a: a.name))
            node.input.extend(self._read(t, t in op.constants) if t >= 0 else "" for t in op.inputs)
            for tensor in op.outputs:
                node.output.append(self._write(tensor) if tensor >= 0 else "")
            self._append(node)
        graph = helper.make_graph(
            self.nodes,
            "segment",
            [self._info(t) for t in self.inputs],
            [self._info(t) for t in self.outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=self.imported.opsets, ir_version=_IR_VERSION)
        data = model.SerializeToString(deterministic=True)
        return SubModel(data, tuple(self.inputs), tuple(self.outputs), self.names)

    def _append(self, node: onnx.NodeProto) -> None:
        node.name = f"n{len(self.nodes)}"
        self.nodes.append(node)

    def _name(self, tensor: int) -> str:
        return self.names.setdefault(tensor, f"t{len(self.names)}")

    def _read(self, tensor: int, constant: bool) -> str:
        if tensor in self.names:
            return self.names[tensor]
        source = self.written.get(self.tensors[tensor].storage)
        if constant:
            value = np.ascontiguousarray(self.imported.constants[self.tensors[tensor].name])
            self.initializers.append(numpy_helper.from_array(value, self._name(tensor)))
        elif source is None:
            self.inputs.append(tensor)
        else:
            self._view(source, tensor)
        return self._name(tensor)

    def _view(self, source: int, tensor: int) -> None:
        name = self._name(tensor)
        shape = np.array(self.tensors[tensor].shape, np.int64)
        self.initializers.append(numpy_helper.from_array(shape, f"{name}.shape"))
        self._append(onnx.NodeProto(op_type="Reshape", input=[self.names[source], f"{name}.shape"], output=[name]))
        self.outputs.append(tensor)

    def _write(self, tensor: int) -> str:
        self.written[self.tensors[tensor].storage] = tensor
        self.outputs.append(tensor)
        return self._name(tensor)

    def _info(self, tensor: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            self._name(tensor), element_type(self.imported, tensor), self.tensors[tensor].shape
        )
