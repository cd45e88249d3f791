"""A whole imported step as one ONNX model again: the operators that a plan runs, fused ones included, unplanned.

In half precision a fused chain computes in float32 between its ends, where the model as it was given rounds at every
operator; what a plan must equal bit for bit is the step with the same operators.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import IR_VERSION
from planc.graph.fused import DOMAIN
from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import element_type
from planc.kernels import DOMAIN as OWN
from planc.kernels.engines import mark_form

_HALVES = ("float16", "bfloat16")


def fuses_halves(imported: ImportedModel) -> bool:
    """Whether a fused operator of the step works on numbers of half precision."""
    graph = imported.graph
    return any(
        graph.tensors[t].dtype in _HALVES
        for op in graph.ops
        if op.domain == DOMAIN
        for t in op.inputs + op.outputs
        if t >= 0
    )


def forms_of_operators(imported: ImportedModel, forms: Mapping[int, str]) -> dict[int, str]:
    """The form of each of planc's own operators (index in the graph) in a layer whose form `forms` names."""
    graph = imported.graph
    return {
        op: form
        for layer, form in forms.items()
        for op in range(graph.layers[layer].start, graph.layers[layer].stop)
        if form and graph.ops[op].domain == OWN
    }


def whole_model(imported: ImportedModel, forms: Mapping[int, str]) -> onnx.ModelProto:
    """The step with the inputs and outputs of the model that was imported, its state without initial values, its layers
    in the forms that `forms` names."""
    return _Whole(imported).build(forms_of_operators(imported, forms))


class _Whole:
    """Tensors are named by their index; inputs and outputs keep the model's names."""

    def __init__(self, imported: ImportedModel) -> None:
        self.imported, self.graph = imported, imported.graph
        self.names = {t: self.graph.tensors[t].name for t in self.graph.inputs}
        self.writer = {self.graph.tensors[t].storage: t for t in self.graph.inputs}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def build(self, forms: Mapping[int, str]) -> onnx.ModelProto:
        imported, graph = self.imported, self.graph
        for index, op in enumerate(graph.ops):
            node = onnx.NodeProto(op_type=op.op_type, domain=op.domain, name=op.name)
            node.attribute.extend(imported.nodes[op.node].attribute)
            node.input.extend(self._read(t) if t >= 0 else "" for t in op.inputs)
            node.output.extend(self._write(t) if t >= 0 else "" for t in op.outputs)
            if index in forms:
                mark_form(node, forms[index])
            self.nodes.append(node)
        given, state, inputs = imported.file.initial_values, imported.state_names, set(graph.inputs)
        defaults = [n for t, n in self.names.items() if t in inputs and n in given and n not in state]
        values = [*self.constants.values(), *(numpy_helper.from_array(np.asarray(given[n]), n) for n in defaults)]
        by_name = {graph.tensors[t].name: t for t in graph.inputs}
        following = {out: graph.state[by_name[name]] for name, out in imported.state_names.items()}
        results = {**imported.outputs, **following}
        for name, tensor in results.items():
            self.nodes.append(helper.make_node("Identity", [self._read(tensor)], [name], name=f"{name}/out"))
        proto = helper.make_graph(
            self.nodes, "step", [self._info(t, graph.tensors[t].name) for t in graph.inputs],
            [self._info(tensor, name) for name, tensor in results.items()], values,
            value_info=[self._info(t, name) for t, name in self.names.items() if t not in inputs],
        )  # fmt: skip
        return helper.make_model(
            proto, opset_imports=imported.opsets, ir_version=IR_VERSION, functions=list(imported.functions.values())
        )

    def _read(self, tensor: int) -> str:
        if tensor in self.names:
            return self.names[tensor]
        described = self.graph.tensors[tensor]
        if self.graph.storages[described.storage].role is Role.CONSTANT and described.name in self.imported.constants:
            return self._constant(f"c{tensor}", self.imported.constants[described.name])
        return self._view(tensor, self.writer[described.storage])

    def _view(self, tensor: int, source: int) -> str:
        """A tensor that lies where another one was written, all of it or a part."""
        part, whole = self.graph.tensors[tensor], self.graph.tensors[source]
        name, given = f"t{tensor}", self.names[source]
        if part.nbytes != whole.nbytes:
            count, size = math.prod(part.shape), part.nbytes // max(1, math.prod(part.shape))
            first = (part.offset - whole.offset) // size
            flat, cut = f"{name}.flat", f"{name}.cut"
            self.nodes.append(helper.make_node("Reshape", [given, self._ints(-1)], [flat]))
            self.nodes.append(helper.make_node("Slice", [flat, self._ints(first), self._ints(first + count)], [cut]))
            given = cut
        shape = self._constant(f"{name}.shape", np.array(part.shape, np.int64))
        self.nodes.append(helper.make_node("Reshape", [given, shape], [name]))
        self.names[tensor] = name
        return name

    def _write(self, tensor: int) -> str:
        """What lay in the storage before goes by its old names no more."""
        storage = self.graph.tensors[tensor].storage
        self.writer[storage] = tensor
        self.names[tensor] = f"t{tensor}"
        return self.names[tensor]

    def _ints(self, number: int) -> str:
        return self._constant(f"i{number}", np.array([number], np.int64))

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _info(self, tensor: int, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name, element_type(self.imported, tensor), self.graph.tensors[tensor].shape
        )
