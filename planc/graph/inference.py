"""Types of all tensors of a model, each distinct operator checked and inferred once.

Deep networks repeat few operators: equal attributes, input types and small constants give outputs of equal types. Shapes
that depend on computed values are found by computing these, where they are small. ONNX's inference of a whole model is not
used: it takes many times the model's own memory, and follows the values of every flat tensor, element by element.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from itertools import chain

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.errors import ModelError
from planc.graph.evaluate import evaluated
from planc.graph.operators import RANDOM
from planc.graph.wellformed import INFERENCE_ERRORS, is_undrawn
from planc.import_budget import spend_time
from planc.kernels import DOMAIN, call_of

Type = tuple[int, tuple[int, ...]]
"""ONNX element type code and shape."""

_VALUE_BYTES = 1024
"""Values up to this size may be shapes, axes or scales, on which the shapes of other tensors depend."""

_LARGEST_TENSOR = 1 << 50
"""Bytes; more than any machine has, and little enough that sums of them are counted in 64 bits."""

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})

_POOLS_ROUND_AS_RUN = 22
"""The first opset whose inference of pools that round up agrees with ONNX Runtime; both know it."""

_Declared = tuple[int, tuple[int | None, ...] | None]
"""What a file says of a tensor: None for a dimension, or a shape, that it leaves open."""


def infer_types(bare: onnx.ModelProto, constants: Mapping[str, np.ndarray], title: str) -> dict[str, Type]:
    """The type of every named tensor of a well-formed model without Constant nodes, whose initializers are its small
    constants.

    Raises ModelError naming the node or tensor: an operator that ONNX refuses, a type that contradicts the declared one,
    a shape that is not concrete, a type that is none of a numeric tensor.
    """
    found: dict[str, Type] = {
        name: (int(helper.np_dtype_to_tensor_dtype(value.dtype)), value.shape) for name, value in constants.items()
    }
    work = _Inference(bare, found, title)
    work.run()
    _require_concrete(bare.graph.node, work.types, title)
    _require_agreement(work.declared, work.types, title)
    return work.types


def known_types(bare: onnx.ModelProto, title: str) -> dict[str, Type]:
    """The type of every tensor of the same kind of model that has a concrete one, whether or not all have.

    Raises ModelError as `infer_types`, for what ONNX refuses.
    """
    work = _Inference(bare, {t.name: (t.data_type, tuple(t.dims)) for t in bare.graph.initializer}, title)
    work.run()
    return work.types


def _shell(bare: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """A model of the same version and operator set with these inputs and nothing else."""
    shell = onnx.ModelProto(ir_version=bare.ir_version, opset_import=bare.opset_import)
    shell.graph.name = "operator"
    shell.graph.input.extend(inputs)
    return shell


class _Inference:
    """Types found so far; `infer` is told of the nodes in order. What small nodes compute from constants is a value too:
    shapes depend on it."""

    def __init__(self, bare: onnx.ModelProto, types: dict[str, Type], title: str) -> None:
        self.bare, self.types, self.title = bare, types, title
        self.declared = _declared(bare.graph, title)
        drawn = (tensor for tensor in bare.graph.initializer if not is_undrawn(tensor))
        self.values = {tensor.name: _as_raw(tensor) for tensor in drawn}
        for value in bare.graph.input:
            concrete = _concrete(*self.declared[value.name])
            if concrete is not None:
                self.types.setdefault(value.name, concrete)
        self.kinds: dict[str, Hashable] = dict(self.types)
        for name, tensor in self.values.items():
            self.kinds[name] = (self.types[name], tensor.raw_data)
        self.known: dict[Hashable, tuple[Type | None, ...]] = {}
        self.pending: dict[str, onnx.NodeProto] = {}
        """Nodes that compute from known values alone, by outputs: computed once a shape asks for one of them."""

    def run(self) -> None:
        """Find all types that can be found."""
        try:
            onnx.checker.check_model(_shell(self.bare, self.bare.graph.input))
        except INFERENCE_ERRORS as error:
            raise ModelError(f"{self.title}: not a valid ONNX model: {error}") from error
        for node in self.bare.graph.node:
            spend_time(node.name)
            try:
                self.infer(node)
            except ModelError:
                raise
            except Exception as error:  # what ONNX says of a damaged node comes in every type
                text = f"{self.title}: not a valid ONNX model: {_title(node)}: {error}"
                raise ModelError(text) from error

    def infer(self, node: onnx.NodeProto) -> None:
        """Find the types of the node's outputs, where those of its inputs are known, and its values, where theirs are."""
        if not all(name in self.kinds for name in node.input if name):
            return
        made = self._made(node)
        if any(name and not type_ for name, type_ in zip(node.output, made, strict=True)) and self._settle(node):
            made = self._made(node)
        for name, type_ in zip(node.output, made, strict=True):
            if name:
                type_ = type_ or _concrete(*self.declared.get(name, (0, None)))
                if type_ is not None:
                    self.types[name] = self.kinds[name] = type_
        self._evaluate(node)

    def _made(self, node: onnx.NodeProto) -> tuple[Type | None, ...]:
        """The types of the node's outputs as far as its inputs tell; equal nodes are looked at once."""
        outputs = tuple(node.output)
        key = (
            (node.domain, node.op_type),
            b"".join([a.SerializeToString() for a in node.attribute]),
            tuple(map(self.kinds.get, node.input)),
            "" in outputs and tuple(map(bool, outputs)),
            len(outputs),
        )
        if key not in self.known:
            self.known[key] = self._alone(node)
        return self.known[key]

    def _evaluate(self, node: onnx.NodeProto) -> None:
        """Learn the values of a node whose results are small and depend on shapes alone; remember one that depends on
        known values: most never decide a shape, and ONNX's evaluator takes megabytes and a while to load."""
        outputs = [name for name in node.output if name]
        if not all(name in self.types and _bytes(self.types[name]) <= _VALUE_BYTES for name in outputs):
            return
        if node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx") and node.input[0] in self.types:
            self._learn({outputs[0]: _shape_of(node, self.types[node.input[0]][1])})
        elif all(n in self.values or n in self.pending for n in node.input if n) and not _draws(node):
            self.pending |= dict.fromkeys(outputs, node)

    def _settle(self, node: onnx.NodeProto) -> bool:
        """Compute the pending inputs of a node, and what they depend on; whether there were any."""
        stack = [self.pending[name] for name in node.input if name in self.pending]
        found = bool(stack)
        while stack:
            wanted = stack[-1]
            before = [self.pending[name] for name in wanted.input if name in self.pending]
            stack += before
            if not before:
                self._compute(stack.pop())
        return found

    def _compute(self, node: onnx.NodeProto) -> None:
        if not any(name in self.pending for name in node.output):
            return  # two inputs depended on it
        for name in node.output:
            self.pending.pop(name, None)
        if all(name in self.values for name in node.input if name):
            self._learn(evaluated(node, self.values, self.bare, _VALUE_BYTES) or {})

    def _learn(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            tensor = self.values[name] = numpy_helper.from_array(value, name)
            self.kinds[name] = (self.types[name], tensor.raw_data)

    def _alone(self, node: onnx.NodeProto) -> tuple[Type | None, ...]:
        """Check and infer the node in a model of its own; None for outputs that have no concrete shape there."""
        if node.domain == DOMAIN:
            return self._own(node)
        names = dict.fromkeys(name for name in node.input if name)
        _refuse_strings(node, {name: self.types[name] for name in names}, self.title)
        inputs = [helper.make_tensor_value_info(n, *self.types[n]) for n in names if n not in self.values]
        model = _shell(self.bare, inputs)
        _use_pools_of_the_runtime(model, node)
        model.graph.initializer.extend(self.values[n] for n in names if n in self.values)
        model.graph.node.append(node)
        _say_one_sided(model.graph.node[0])
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        declared = _declared(inferred.graph, self.title)
        found = {name: _concrete(*declared[name]) for name in node.output if name in declared}
        _require_sane(node, found, self.title)
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


def _use_pools_of_the_runtime(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Let a pool that rounds up be inferred as of opset 22. Before it, ONNX counts a last window that begins in the
    padding, which ONNX Runtime leaves out in every opset."""
    if node.op_type in _POOLS and any(a.name == "ceil_mode" and a.i for a in node.attribute):
        for entry in model.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = max(entry.version, _POOLS_ROUND_AS_RUN)


def _say_one_sided(node: onnx.NodeProto) -> None:
    """Write out STFT's default: ONNX's inference takes a missing `onesided` for 0, its definition and runtimes for 1."""
    if node.op_type == "STFT" and node.domain in ("", "ai.onnx") and all(a.name != "onesided" for a in node.attribute):
        node.attribute.append(helper.make_attribute("onesided", 1))


def _require_sane(node: onnx.NodeProto, types: Mapping[str, Type | None], title: str) -> None:
    for name, type_ in types.items():
        if type_ is not None and (min(type_[1], default=0) < 0 or _bytes(type_) > _LARGEST_TENSOR):
            raise ModelError(
                f"{title}: tensor {name!r} at {_title(node)} would have the shape {list(type_[1])}; expected sizes from 0, "
                f"and at most {_LARGEST_TENSOR} bytes"
            )


def _bytes(type_: Type) -> int:
    return math.prod(type_[1]) * (1 if type_[0] == onnx.TensorProto.STRING else _itemsize(type_[0]))


@cache
def _itemsize(code: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(code).itemsize)


def _as_raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The same tensor, its values where they can be compared."""
    if tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _shape_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    """What a Shape or Size node makes of a tensor of `shape`."""
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    part = {a.name: a.i for a in node.attribute}
    return np.array(shape[part.get("start", 0) : part.get("end", len(shape))], np.int64)


def _draws(node: onnx.NodeProto) -> bool:
    return node.op_type in RANDOM or node.op_type == "Dropout"


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
