"""Reading an ONNX file into a skeleton without large weights, the constants' values, and a content hash."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from planc.errors import ModelError
from planc.file_kinds import not_the
from planc.files import read_file
from planc.graph.functions import function_body, instantiated, is_inlined
from planc.graph.inference import Type, infer_types
from planc.graph.nodes import replace_nodes
from planc.graph.operators import CONTROL_FLOW
from planc.graph.wellformed import MOST_NODES, is_external, malformed, tensors_of, unfilled
from planc.import_budget import spend_bytes
from planc.importer.identity import content_hash
from planc.importer.lean import lean_model
from planc.importer.metadata import Metadata, check_micro_batches, read_metadata
from planc.importer.weights import InitialValues, fill_all, filled, misplaced
from planc.kernels import DOMAIN

_LARGEST_FILE = 1 << 31
"""Bytes that a protocol buffer can hold."""

INLINE_CONSTANT_BYTES = 1024
"""Constants up to this size are kept inside a session; larger ones get a place in the slab."""

_CONSTANTS = {
    "value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64
}  # fmt: skip
"""Attributes that a Constant node may hold its value in. Strings have no planned address, sparse tensors no dense form."""


@dataclass(frozen=True)
class Skeleton:
    """A model without its state's values: the structure that a plan is made for.

    `nodes` are those of the file but for Constant nodes; `types` gives dtype code and shape of every named tensor;
    `constants` are the values that nothing updates.
    """

    nodes: tuple[onnx.NodeProto, ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, Type]
    constants: Mapping[str, np.ndarray]
    metadata: Metadata
    content_hash: str


@dataclass(frozen=True)
class ModelFile:
    """An ONNX model and where it came from; `path` is None for a model built in memory.

    `stamp` tells the file that was read from any other that may take its place: weights are read from it later.
    """

    proto: onnx.ModelProto
    path: Path | None
    stamp: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """How messages name the model."""
        return str(self.path) if self.path else "the model"

    @property
    def folder(self) -> Path | None:
        """Where external data lies."""
        return self.path.parent if self.path else None

    @cached_property
    def initial_values(self) -> InitialValues:
        """Initial values of the state inputs, and of inputs that have a default, by name, read when asked for."""
        inputs = {value.name for value in self.proto.graph.input}
        tensors = {i.name: i for i in self.proto.graph.initializer if i.name in inputs}
        return InitialValues(tensors, self.folder, self.require_unchanged)

    def require_unchanged(self) -> None:
        """Raise ModelError where the file is another one by now than when it was read."""
        if self.stamp and self.path and _stamp(self.path) != self.stamp:
            raise ModelError(f"{self.path}: the file was changed after it was read; load the model again")


def _stamp(path: Path) -> tuple[int, ...]:
    """Different for a file that was replaced or written to; empty where there is none."""
    try:
        info = path.stat()
    except OSError:
        return ()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def read_model(source: str | Path | onnx.ModelProto, whole: bool = False) -> ModelFile:
    """The model in a file, or one that is already in memory. Weights, in the file or as external data beside it, are left
    where they are until they are asked for, or read at once for a `whole` model.

    Raises ModelError when the file is missing,
    is no ONNX model, or does not pass onnx's checker.
    """
    if isinstance(source, onnx.ModelProto):
        return _checked(ModelFile(source, None))
    path = Path(source)
    try:
        stamp = _stamp(path)
        if whole or path.is_symlink():  # data of a lean model is looked for beside it, where a link does not lie
            file = _checked(ModelFile(onnx.load_model_from_string(read_file(path, _LARGEST_FILE)), path))
        else:
            file = _checked(ModelFile(lean_model(path), path, stamp))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such model file") from error
    except (DecodeError, ValueError, OSError) as error:
        text = not_the("ONNX model", path, getattr(error, "strerror", None) or error)
        raise ModelError(f"{text}; expected a binary .onnx file") from error
    if whole:
        try:
            fill_all(file.proto, file.folder)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    return file


def _checked(file: ModelFile) -> ModelFile:
    """The file, if its model hangs together."""
    proto = file.proto
    if len(proto.graph.node) > MOST_NODES:
        raise ModelError(f"{file.title}: {len(proto.graph.node)} nodes, more than the {MOST_NODES} that planc plans")
    if not proto.graph.node:
        raise ModelError(f"{file.title}: the model has no nodes; expected the ONNX graph of one training step")
    for text in chain(malformed(proto), unfilled(proto), _misplaced(file)):
        raise ModelError(f"{file.title}: not a valid ONNX model: {text}")
    return file


def _misplaced(file: ModelFile) -> Iterator[str]:
    for tensor in tensors_of(file.proto):
        reason = misplaced(tensor, file.folder) if is_external(tensor) else None
        if reason is not None:
            yield f"external data of initializer {tensor.name!r}: {reason}"


def skeleton(file: ModelFile) -> Skeleton:
    """Check `file` and take its structure out.

    Raises ModelError naming the node or tensor: control flow, a foreign operator domain, a sequence type, a missing
    opset, a shape that is not concrete, state metadata that does not fit the graph.
    """
    proto = file.proto
    _refuse(proto, file.title)
    found = read_metadata(proto, file.title)
    bare, constants = _strip(file, found.given)
    types = infer_types(bare, constants, file.title)
    if _expand(bare, constants, types, file):
        types = infer_types(bare, constants, file.title)
    check_micro_batches(found, types, file.title)
    return Skeleton(
        nodes=tuple(bare.graph.node),
        opsets=tuple(proto.opset_import),
        inputs=tuple(value.name for value in proto.graph.input),
        outputs=tuple(value.name for value in proto.graph.output),
        types=types,
        constants=constants,
        metadata=found,
        content_hash=content_hash(bare, len(proto.graph.input), constants, found.states, found.loss),
    )


def _refuse(proto: onnx.ModelProto, title: str) -> None:
    for node in proto.graph.node:
        name = node.name or next(iter(node.output), "")
        if node.domain not in ("", "ai.onnx", DOMAIN):
            raise ModelError(
                f"{title}: node {name!r} is {node.domain}.{node.op_type}; only standard ONNX operators are supported "
                "(ONNX Runtime's training artifacts are converted by `planc import-ort`)"
            )
        if node.op_type in CONTROL_FLOW:
            raise ModelError(
                f"{title}: node {name!r} is control flow ({node.op_type}); a plan needs a fixed graph: unroll it"
            )
        if node.op_type.startswith("Sequence") or node.op_type.startswith("Optional"):
            raise ModelError(
                f"{title}: node {name!r} ({node.op_type}) uses a sequence or optional type; only tensors are supported"
            )
    if not any(o.domain in ("", "ai.onnx") for o in proto.opset_import):
        raise ModelError(f"{title}: the model imports no ONNX opset; expected opset 13 or later")


def _strip(file: ModelFile, given: Collection[str]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with every initializer and Constant node turned into an input, and the values of the constants."""
    proto, bare = file.proto, onnx.ModelProto()
    bare.ir_version = max(proto.ir_version, 8)
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(function for function in proto.functions if function.domain == DOMAIN)
    inputs = {value.name for value in proto.graph.input}
    constants: dict[str, np.ndarray] = {}
    graph = bare.graph
    graph.name = "step"
    for initializer in proto.graph.initializer:
        if initializer.name not in given:
            spend_bytes(_declared_bytes(initializer), f"initializer {initializer.name!r}")
            constants[initializer.name] = numpy_helper.to_array(filled(initializer, file.folder))
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant_value(node, file)
        else:
            graph.node.append(node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    small = {name: value for name, value in constants.items() if value.nbytes <= INLINE_CONSTANT_BYTES}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in small.items())
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in constants.items()
        if name not in inputs and name not in small
    )
    return bare, constants


def _declared_bytes(tensor: onnx.TensorProto) -> int:
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(prod(tensor.dims) * itemsize)


def _expand(
    bare: onnx.ModelProto, constants: dict[str, np.ndarray], types: Mapping[str, Type], file: ModelFile
) -> bool:
    """Replace operators that a session would replace by their function bodies, in place; whether there were any."""
    if not any(is_inlined(node, types) for node in bare.graph.node):
        return False
    version = next(o.version for o in bare.opset_import if o.domain in ("", "ai.onnx"))
    nodes, taken = [], set(types)
    for serial, node in enumerate(bare.graph.node):
        body = function_body(node, version, types) if is_inlined(node, types) else None
        parts = [node] if body is None else instantiated(node, body, version, f"{node.name}@{serial}")
        if body is not None:
            _require_new_names(parts, node, taken, file.title)
        for part in parts:
            if part.op_type == "Constant":
                constants[part.output[0]] = _constant_value(part, file)
                bare.graph.initializer.append(numpy_helper.from_array(constants[part.output[0]], part.output[0]))
            else:
                nodes.append(part)
    replace_nodes(bare.graph, nodes)
    return True


def _require_new_names(parts: Sequence[onnx.NodeProto], call: onnx.NodeProto, taken: set[str], title: str) -> None:
    """Raise ModelError where the body of `call` would make a tensor that is there; what it makes is `taken` from now on."""
    for name in (name for part in parts for name in part.output if name and name not in call.output):
        if name in taken:
            raise ModelError(
                f"{title}: tensor {name!r} has the name that an inner tensor of node {call.name!r} ({call.op_type}) gets: "
                "rename one of them"
            )
        taken.add(name)


def _constant_value(node: onnx.NodeProto, file: ModelFile) -> np.ndarray:
    names = [attribute.name for attribute in node.attribute]
    if len(names) != 1 or names[0] not in _CONSTANTS or not node.output:
        raise ModelError(
            f"{file.title}: Constant node {node.name or next(iter(node.output), '')!r} holds {names}; expected one of "
            f"{', '.join(_CONSTANTS)}"
        )
    value = onnx.helper.get_attribute_value(node.attribute[0])
    try:
        if names[0] == "value":
            spend_bytes(_declared_bytes(value), f"Constant node {node.output[0]!r}")
            return numpy_helper.to_array(filled(value, file.folder))
        return np.array(value, _CONSTANTS[names[0]])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ModelError(f"{file.title}: Constant node {node.output[0]!r} cannot be read: {error}") from error
