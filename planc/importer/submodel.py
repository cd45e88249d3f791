"""Consecutive operators as a stand-alone ONNX model in canonical form, so that identical stretches are recognised.

Tensors are renamed by first appearance, attributes sorted and shapes written in, so two stretches that compute the same
function of differently named tensors have equal bytes: they share one cost measurement and one session. Every operator's
output is a graph output, to be bound at its planned address. A view whose source is made inside the stretch appears as
a Reshape onto the same address, which moves no byte and tells ONNX Runtime of the dependency; a view of a piece, and the
output of a Concat that does not run, as one more input, for which the order of the operators has to do.
"""

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import IR_VERSION
from planc.graph.fused import DOMAIN
from planc.importer.import_model import ImportedModel
from planc.kernels import DOMAIN as OWN
from planc.kernels.engines import write_engines


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a sub-model: its name there, the graph's tensor, and the operator (counted from the start
    of the stretch) that first touches it."""

    name: str
    tensor: int
    position: int


@dataclass(frozen=True)
class SubModel:
    """A stretch of operators as ONNX bytes. All `inputs` and `outputs` must be bound. `draws` names an operator of the
    graph that draws random numbers, if there is one in the stretch, and `generators` has the indices of all such."""

    model_bytes: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    draws: str = ""
    generators: tuple[int, ...] = ()

    @property
    def session_key(self) -> tuple[object, ...]:
        """Equal for stretches that may share a session: the same function, and no random numbers to take turns at."""
        return (self.signature, *self.generators)

    @cached_property
    def signature(self) -> str:
        """SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.model_bytes).hexdigest()


def element_type(imported: ImportedModel, tensor: int) -> int:
    """ONNX element type code of a tensor."""
    dtype = imported.graph.tensors[tensor].dtype
    return int(getattr(TensorProto, _ONNX_NAMES.get(dtype, dtype.upper())))


_ONNX_NAMES = {"float32": "FLOAT", "float64": "DOUBLE", "object": "STRING"}


def sub_model(imported: ImportedModel, ops: Iterable[int], placed: Container[int] = ()) -> SubModel:
    """The operators `ops` (indices, in execution order; one that recurs is a recomputation) as a canonical model.

    Those at the positions `placed` are left out: their output is there already, and is an input to whoever reads it.
    """
    return _Canonical(imported).build(ops, placed)


class _Canonical:
    """Builds one sub-model in single-assignment form: each execution of an operator gets names of its own."""

    def __init__(self, imported: ImportedModel) -> None:
        self.imported = imported
        self.tensors = imported.graph.tensors
        self.latest: dict[int, str] = {}
        self.count = 0
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.initializers: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.writer: dict[int, int] = {}
        self.position = 0
        self.draws = ""
        self.generators: list[int] = []

    def build(self, ops: Iterable[int], placed: Container[int]) -> SubModel:
        for self.position, index in enumerate(ops):
            op = self.imported.graph.ops[index]
            if self.position in placed:
                self._forget(op.outputs[0])
                continue
            node = onnx.NodeProto(op_type=op.op_type, domain=op.domain)
            node.attribute.extend(sorted(self.imported.nodes[op.node].attribute, key=lambda a: a.name))
            node.input.extend(self._read(t, t in op.constants) if t >= 0 else "" for t in op.inputs)
            node.output.extend(self._write(t) if t >= 0 else "" for t in op.outputs)
            self._append(node)
            if op.random:
                self.draws = op.name or op.op_type
                self.generators.append(index)
        graph = helper.make_graph(
            self.nodes,
            "segment",
            [self._info(port) for port in self.inputs],
            [self._info(port) for port in self.outputs],
            self.initializers,
        )
        used = sorted({node.op_type for node in self.nodes if node.domain in (DOMAIN, OWN)})
        functions = [self.imported.functions[name] for name in used]
        model = helper.make_model(
            graph, opset_imports=self.imported.opsets, ir_version=IR_VERSION, functions=functions
        )  # fmt: skip
        write_engines(model, self.imported.engines)
        encoded = model.SerializeToString(deterministic=True)
        return SubModel(encoded, tuple(self.inputs), tuple(self.outputs), self.draws, tuple(self.generators))

    def _append(self, node: onnx.NodeProto) -> None:
        node.name = f"n{len(self.nodes)}"
        self.nodes.append(node)

    def _new_name(self, tensor: int) -> str:
        self.latest[tensor] = f"t{self.count}"
        self.count += 1
        return self.latest[tensor]

    def _read(self, tensor: int, constant: bool) -> str:
        if tensor in self.latest:
            return self.latest[tensor]
        source = self.writer.get(self.tensors[tensor].storage)
        name = self._new_name(tensor)
        if constant:
            value = self.imported.constants[self.tensors[tensor].name]
            self.initializers.append(numpy_helper.from_array(value, name))
        elif source is None or self._is_piece(tensor, source):
            self.inputs.append(Port(name, tensor, self.position))
        else:
            self._view(self.latest[source], name, tensor)
        return name

    def _is_piece(self, tensor: int, whole: int) -> bool:
        """Whether the tensor is a part of what an operator wrote."""
        return self.tensors[tensor].offset > 0 or self.tensors[tensor].nbytes != self.tensors[whole].nbytes

    def _view(self, source: str, name: str, tensor: int) -> None:
        shape = np.array(self.tensors[tensor].shape, np.int64)
        self.initializers.append(numpy_helper.from_array(shape, f"{name}.shape"))
        self._append(onnx.NodeProto(op_type="Reshape", input=[source, f"{name}.shape"], output=[name]))
        self.outputs.append(Port(name, tensor, self.position))

    def _forget(self, tensor: int) -> None:
        """The names of the tensor's storage are outdated, and nothing of the stretch has written it."""
        storage = self.tensors[tensor].storage
        for other in self.imported.graph.storages[storage].tensors:
            self.latest.pop(other, None)
        self.writer.pop(storage, None)

    def _write(self, tensor: int) -> str:
        """A new name; older names of the same storage are outdated."""
        self._forget(tensor)
        self.writer[self.tensors[tensor].storage] = tensor
        name = self._new_name(tensor)
        self.outputs.append(Port(name, tensor, self.position))
        return name

    def _info(self, port: Port) -> onnx.ValueInfoProto:
        shape = self.tensors[port.tensor].shape
        return helper.make_tensor_value_info(port.name, element_type(self.imported, port.tensor), shape)
