"""Evaluates, once and for all, what a model computes from constants alone."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from planc.graph.evaluate import evaluated
from planc.graph.nodes import replace_nodes
from planc.import_budget import spend_time
from planc.training.emit.builder import FLOATS, Var
from planc.training.layout.readers import read_instead
from planc.training.registry import attributes_of

FOLDED_BYTES = 1 << 27
"""Results larger than this stay computed: an initializer of that size would cost more memory than it saves time."""

_ALL_BYTES = 1 << 29
"""All results together."""


def fold_constants(model: onnx.ModelProto) -> None:
    """Replace Constant nodes and nodes of constant inputs by initializers, in place.

    Float initializers of rank one or more are left alone, because they may be parameters; a node that reads only
    shapes is folded through its inferred shape.
    """
    graph = model.graph
    known = {t.name: t for t in graph.initializer}
    fixed = {n for n, t in known.items() if not (len(t.dims) and t.data_type in FLOATS)}
    shapes = _static_shapes(model)
    kept, total = [], 0
    for node in graph.node:
        spend_time(node.name)
        results = _evaluate(node, known, fixed, shapes, model) if total <= _ALL_BYTES else None
        if results is None:
            kept.append(node)
            continue
        total += sum(array.nbytes for array in results.values())
        for name, array in results.items():
            known[name] = numpy_helper.from_array(array, name)
            fixed.add(name)
            graph.initializer.append(known[name])
    replace_nodes(graph, kept)
    _drop_unused(graph)


_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
)


def _evaluate(
    node: onnx.NodeProto, known: dict[str, TensorProto], fixed: set[str], shapes: dict[str, list[int]],
    model: onnx.ModelProto,
) -> dict[str, npt.NDArray[Any]] | None:  # fmt: skip
    """The results of `node` by name, None when it does not depend on constants alone."""
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        shape = np.array(shapes[node.input[0]], np.int64)
        if node.op_type == "Size":
            return {node.output[0]: np.array(shape.prod(), np.int64)}
        attributes = attributes_of(node)
        return {node.output[0]: shape[slice(attributes.get("start", 0), attributes.get("end"))]}
    if node.op_type in _RANDOM or not all(name in fixed for name in node.input if name):
        return None
    return evaluated(node, known, model, FOLDED_BYTES)


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = model.graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[info.name] = [d.dim_value for d in tensor.shape.dim]
    return shapes


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initializers that nothing reads."""
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def share_constants(model: onnx.ModelProto, trained: Collection[str]) -> None:
    """Let equal constants be one initializer, in place; parameters and running statistics stay apart."""
    graph, alias = model.graph, dict[str, str]()
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    state = set(trained) | {o.name for o in graph.output} | {i.name for i in graph.input}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            state.update(node.input[3:])
    for tensor in graph.initializer:
        if tensor.name not in state:
            content = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
            alias[tensor.name] = first.setdefault(content, tensor.name)
    for node in graph.node:
        read_instead(node, alias)
    _drop_unused(graph)


def bypass_identities(model: onnx.ModelProto, values: Mapping[str, Var]) -> None:
    """Remove, in place, nodes that change nothing: Identity, inference-mode Dropout, Cast and Expand to what it is."""
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    outputs = {o.name for o in graph.output}
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        read_instead(node, alias)
        if _changes_nothing(node, values, constants) and node.output[0] not in outputs:
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def _changes_nothing(
    node: onnx.NodeProto, values: Mapping[str, Var], constants: Mapping[str, TensorProto]
) -> bool:  # fmt: skip
    if node.op_type == "Dropout" and not any(node.output[1:]):
        training = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        fixed = len(node.input) < 3 or not node.input[2] or training is not None
        return fixed and not (training is not None and bool(numpy_helper.to_array(training)))
    if node.op_type == "Identity":
        return True
    if node.op_type not in ("Cast", "Expand"):
        return False
    before, after = values[node.input[0]], values[node.output[0]]
    return (before.shape, before.dtype) == (after.shape, after.dtype)
