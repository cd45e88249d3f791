"""Types of all tensors of a model, each distinct operator checked and inferred once.

Deep networks repeat few operators: equal attributes, input types and small constants give outputs of equal types.
ONNX's inference of a whole model, which takes many times the model's own memory, is left to models with shapes that
depend on computed values.
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import chain

import numpy as np
import onnx
from onnx import helper

from planc.errors import ModelError
from planc.graph.wellformed import INFERENCE_ERRORS
from planc.kernels import DOMAIN, call_of

Type = tuple[int, tuple[int, ...]]
"""ONNX element type code and shape."""

_Declared = tuple[int, tuple[int | None, ...] | None]
"""What a file says of a tensor: None for a dimension, or a shape, that it leaves open."""


def infer_types(bare: onnx.ModelProto, constants: Mapping[str, np.ndarray], title: str) -> dict[str, Type]:
    """The type of every named tensor of a well-formed model without Constant nodes, whose initializers are its small
    constants.

    Raises ModelError naming the node or tensor: an operator that ONNX refuses, a type that contradicts the declared one,
    a shape that is not concrete, a type that is none of a numeric tensor.
    """
    declared = _declared(bare.graph, title)
    found: dict[str, Type] = {
        name: (int(helper.np_dtype_to_tensor_dtype(value.dtype)), value.shape) for name, value in constants.items()
    }
    try:
        onnx.checker.check_model(_shell(bare, bare.graph.input))
        work = _Inference(bare, declared, found, title)
        if not all(map(work.infer, bare.graph.node)):
            found = _of_whole_model(bare, found, title)
            _require_concrete(bare.graph.node, found, title)
    except INFERENCE_ERRORS as error:
        raise ModelError(f"{title}: not a valid ONNX model: {error}") from error
    _require_agreement(declared, found, title)
    return found


def _shell(bare: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """A model of the same version and operator set with these inputs and nothing else."""
    shell = onnx.ModelProto(ir_version=bare.ir_version, opset_import=bare.opset_import)
    shell.graph.name = "operator"
    shell.graph.input.extend(inputs)
    return shell


class _Inference:
    """Types found so far; `infer` is told of the nodes in order."""

    def __init__(
        self, bare: onnx.ModelProto, declared: Mapping[str, _Declared], types: dict[str, Type], title: str
    ) -> None:
        self.bare, self.types, self.title = bare, types, title
        self.values = {tensor.name: tensor for tensor in bare.graph.initializer}
        for value in bare.graph.input:
            concrete = _concrete(*declared[value.name])
            if concrete is not None:
                self.types.setdefault(value.name, concrete)
        self.kinds: dict[str, Hashable] = dict(self.types)
        for name, tensor in self.values.items():
            self.kinds[name] = (self.types[name], tensor.raw_data)
        self.known: dict[Hashable, tuple[Type | None, ...]] = {}

    def infer(self, node: onnx.NodeProto) -> bool:
        """Find the types of the node's outputs. False where they depend on more than the node and its inputs' types."""
        inputs, outputs = tuple(node.input), tuple(node.output)
        key = (
            (node.domain, node.op_type),
            b"".join([a.SerializeToString() for a in node.attribute]),
            tuple(map(self.kinds.get, inputs)),
            "" in outputs and tuple(map(bool, outputs)),
            len(outputs),
        )
        made = self.known.get(key)
        if made is None:
            if not all(name in self.kinds for name in inputs if name):
                return False
            made = self.known[key] = self._alone(node)
        for name, type_ in zip(outputs, made, strict=True):
            if name:
                if type_ is None:
                    return False
                self.types[name] = self.kinds[name] = type_
        return True

    def _alone(self, node: onnx.NodeProto) -> tuple[Type | None, ...]:
        """Check and infer the node in a model of its own; None for outputs that have no concrete shape there."""
        if node.domain == DOMAIN:
            return self._own(node)
        names = dict.fromkeys(name for name in node.input if name)
        _refuse_strings(node, {name: self.types[name] for name in names}, self.title)
        inputs = [helper.make_tensor_value_info(n, *self.types[n]) for n in names if n not in self.values]
        model = _shell(self.bare, inputs)
        model.graph.initializer.extend(self.values[n] for n in names if n in self.values)
        model.graph.node.append(node)
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        declared = _declared(inferred.graph, self.title)
        found = {name: _concrete(*declared[name]) for name in node.output if name in declared}
        _refuse_strings(node, found, self.title)
        return tuple(found.get(name) for name in node.output)

    def _own(self, node: onnx.NodeProto) -> tuple[Type | None, ...]:
        """The types that an operator of planc's own makes."""
        try:
            made = call_of(node, self.types).outputs
        except ModelError as error:
            raise ModelError(f"{self.title}: {_title(node)}: {error}") from error
        if len(made) != len(node.output):
            raise ModelError(f"{self.title}: {_title(node)} has {len(node.output)} outputs, expected {len(made)}")
        return tuple((type_.dtype, type_.shape) for type_ in made)


def _of_whole_model(bare: onnx.ModelProto, found: Mapping[str, Type], title: str) -> dict[str, Type]:
    onnx.checker.check_model(bare)
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    concrete = ((name, _concrete(*known)) for name, known in _declared(inferred.graph, title).items())
    return {**found, **{name: type_ for name, type_ in concrete if type_ is not None}}


def _declared(graph: onnx.GraphProto, title: str) -> dict[str, _Declared]:
    """What the graph says of its inputs, outputs and inner tensors."""
    found: dict[str, _Declared] = {}
    known: dict[bytes, _Declared] = {}
    for info in chain(graph.input, graph.output, graph.value_info):
        form = info.type.SerializeToString()
        if form not in known:  # few types serve many tensors
            known[form] = _declared_type(info, title)
        found[info.name] = known[form]
    return found


def _declared_type(info: onnx.ValueInfoProto, title: str) -> _Declared:
    if not info.type.HasField("tensor_type"):
        raise ModelError(f"{title}: {info.name!r} is not a tensor; sequences and maps are not supported")
    tensor, dims = info.type.tensor_type, None
    if tensor.HasField("shape"):
        dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return tensor.elem_type, dims


def _concrete(code: int, dims: tuple[int | None, ...] | None) -> Type | None:
    if dims is None or None in dims:
        return None
    return code, tuple(d for d in dims if d is not None)


def _refuse_strings(node: onnx.NodeProto, types: Mapping[str, Type | None], title: str) -> None:
    for name, type_ in types.items():
        if type_ is not None and type_[0] == onnx.TensorProto.STRING:
            raise ModelError(f"{title}: tensor {name!r} at {_title(node)} holds strings, which have no planned address")


def _require_concrete(nodes: Sequence[onnx.NodeProto], found: Mapping[str, Type], title: str) -> None:
    for node in nodes:
        for name in (*node.input, *node.output):
            if name and name not in found:
                raise ModelError(
                    f"{title}: tensor {name!r} at {_title(node)} has no concrete shape; "
                    "bind symbolic dimensions (`planc grad --dim name=size`)"
                )
            if name:
                _refuse_strings(node, {name: found[name]}, title)


def _require_agreement(declared: Mapping[str, _Declared], found: Mapping[str, Type], title: str) -> None:
    for name, (code, dims) in declared.items():
        if name not in found or found[name] == (code, dims):
            continue
        kind, shape = found[name]
        other = dims is not None and (
            len(dims) != len(shape) or any(d not in (None, s) for d, s in zip(dims, shape, strict=True))
        )
        if other or code not in (kind, onnx.TensorProto.UNDEFINED):
            raise ModelError(
                f"{title}: not a valid ONNX model: tensor {name!r} is declared as {_shown(code, dims)}, "
                f"but is {_shown(kind, shape)}"
            )


def _shown(code: int, dims: Sequence[int | None] | None) -> str:
    shape = "" if dims is None else f" [{', '.join('?' if d is None else str(d) for d in dims)}]"
    return f"{onnx.TensorProto.DataType.Name(code)}{shape}"


def _title(node: onnx.NodeProto) -> str:
    return f"node {node.name!r} ({node.op_type})"
