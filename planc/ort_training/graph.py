"""Reads the structure of a training artifact: what its inputs are, which nodes belong to which layer and phase.

The artifact's nodes come in an order made for another memory planner, weight gradients last. Here they are put into
forward layers and, in reverse, the backward layers that belong to them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import onnx
from onnx import defs, helper

from planc.errors import ModelError
from planc.training.emit.builder import LayerGroup
from planc.training.registry import attributes_of

BUFFER = "_grad.accumulation.buffer"
"""Suffix of the input that accumulates a parameter's gradient over several batches."""

ACCUMULATORS = frozenset({"InPlaceAccumulator", "InPlaceAccumulatorV2"})

_GRADIENT = "_Grad/"
"""What follows a forward node's name in the names of the nodes that differentiate it."""

_KINDS = {
    "SoftmaxCrossEntropyLoss": "cross-entropy",
    "SoftmaxCrossEntropyLossInternal": "cross-entropy",
    "Softmax": "attention",
    "Conv": "conv",
    "ConvTranspose": "conv-transpose",
    "BatchNormInternal": "batch-norm",
    "LayerNormalization": "layer-norm",
    "MaxPool": "max-pool",
    "AveragePool": "average-pool",
    "GlobalAveragePool": "average-pool",
    "Dropout": "dropout",
    "Gather": "embedding",
    "Gemm": "linear",
    "MatMul": "linear",
    "FusedMatMul": "linear",
    "Tanh": "tanh",
    "Gelu": "gelu",
    "FastGelu": "gelu",
    "BiasGelu": "gelu",
    "Relu": "relu",
    "Add": "add",
}
"""Operators that name what a layer is, the most telling first."""


@dataclass(frozen=True)
class Structure:
    """A training artifact taken apart.

    `gradients` maps each trained parameter to the tensor that holds its gradient; `forward` and `backward` are the
    nodes of the layers in execution order.
    """

    loss: str
    gradients: dict[str, str]
    forward: list[tuple[LayerGroup, list[onnx.NodeProto]]]
    backward: list[tuple[LayerGroup, list[onnx.NodeProto]]]


def structure_of(model: onnx.ModelProto) -> Structure:
    """Take `model` apart. Raises ModelError where it is no training artifact."""
    graph = model.graph
    gradients = dict(_gradients(graph))
    if not gradients:
        raise ModelError("the training model accumulates no gradient: it is no artifact of onnxruntime-training")
    losses = [o.name for o in graph.output if not o.type.tensor_type.shape.dim and o.type.tensor_type.elem_type == 1]
    if not losses:
        raise ModelError("the training model has no scalar output to be the loss")
    nodes = _untransposed([node for node in graph.node if node.op_type not in ACCUMULATORS])
    needed = _ancestors(nodes, [losses[0]])
    differentiating = [n for n in _needed_by(nodes, gradients.values()) if id(n) not in needed]
    resident = {i.name for i in graph.initializer} | set(gradients)
    ordered = _late([n for n in nodes if id(n) in needed], resident)
    forward = _layers(ordered)
    return Structure(losses[0], gradients, forward, _reversed_layers(forward, differentiating, _given(graph)))


def _gradients(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """(parameter, gradient) of every accumulator."""
    inputs = {i.name for i in graph.input}
    for node in graph.node:
        if node.op_type in ACCUMULATORS:
            buffer, gradient = node.input[:2]
            name = buffer.removesuffix(BUFFER) if buffer.endswith(BUFFER) else gradient.removesuffix("_grad")
            if name not in inputs:
                raise ModelError(f"node {node.name!r} accumulates {gradient!r}, but no input is named {name!r}")
            yield name, gradient


def _untransposed(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """`nodes` with the transpose of a product written as the product of the transposes, which costs nothing."""
    readers = Counter(name for node in nodes for name in node.input)
    plain = [node for node in nodes if node.op_type == "Gemm" and len(node.input) == 2]
    products = {node.output[0]: node for node in plain if readers[node.output[0]] == 1}
    replaced: set[int] = set()
    kept = []
    for node in nodes:
        product = products.get(node.input[0]) if node.op_type == "Transpose" else None
        if product is None:
            kept.append(node)
            continue
        given = attributes_of(product)
        kept.append(
            helper.make_node(
                "Gemm", [product.input[1], product.input[0]], list(node.output), name=product.name,
                transA=1 - given.get("transB", 0), transB=1 - given.get("transA", 0), alpha=given.get("alpha", 1.0),
            )
        )  # fmt: skip
        replaced.add(id(product))
    return [node for node in kept if id(node) not in replaced]


def _given(graph: onnx.GraphProto) -> set[str]:
    return {i.name for i in graph.input} | {i.name for i in graph.initializer}


def _ancestors(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> set[int]:
    """Identities of the nodes that some wanted tensor depends on."""
    return {id(node) for node in _needed_by(nodes, wanted)}


def _needed_by(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of `nodes`, which are in topological order, that some wanted tensor depends on, in order."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        if any(o in needed for o in node.output if o):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]


def _late(nodes: Sequence[onnx.NodeProto], resident: set[str]) -> list[onnx.NodeProto]:
    """`nodes` with those that depend on parameters alone, such as a transpose, put before their first reader."""
    resident, early = set(resident), set[int]()
    producer = {o: node for node in nodes for o in node.output if o}
    for node in nodes:
        if all(name in resident for name in node.input if name):
            resident.update(node.output)
            early.add(id(node))
    ordered: list[onnx.NodeProto] = []
    placed: set[int] = set()

    def place(node: onnx.NodeProto) -> None:
        for name in node.input:
            source = producer.get(name)
            if source is not None and id(source) in early and id(source) not in placed:
                place(source)
        placed.add(id(node))
        ordered.append(node)

    for node in nodes:
        if id(node) not in early:
            place(node)
    return ordered


def _layers(nodes: Sequence[onnx.NodeProto]) -> list[tuple[LayerGroup, list[onnx.NodeProto]]]:
    """Runs of nodes of one module, named after it; a run of operators beside submodules after its main operator."""
    paths = {_path(node) for node in nodes}
    containers = {path.rpartition(".")[0] for path in paths if "." in path} | {""}
    containers |= {outer for path in containers for outer in _outer(path)}
    found: list[tuple[LayerGroup, list[onnx.NodeProto]]] = []
    serial: dict[str, int] = {}
    for path, run in groupby(nodes, key=lambda node: _path(node) or node.name):
        members = list(run)
        kind = _kind(members)
        plain = _path(members[0])
        name = plain if plain not in containers else ".".join([*([plain] if plain else []), kind])
        serial[name] = serial.get(name, 0) + 1
        unique = name if serial[name] == 1 else f"{name}#{serial[name]}"
        found.append((LayerGroup(unique, kind, "forward"), members))
        del path
    return found


def _outer(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _path(node: onnx.NodeProto) -> str:
    """The module of a node of torch's exporter: `/l.0/qkv/MatMul` is `l.0.qkv`; empty where the name tells none."""
    parts = []
    for part in node.name.strip("/").split("/"):
        if defs.has(part.partition("_")[0]) or "::" in part:
            break
        parts.append(part)
    else:
        return ""
    return ".".join(parts)


def _kind(run: Sequence[onnx.NodeProto]) -> str:
    types = {node.op_type for node in run}
    return next((kind for op, kind in _KINDS.items() if op in types), run[0].op_type.lower())


def _reversed_layers(
    forward: Sequence[tuple[LayerGroup, list[onnx.NodeProto]]], nodes: Sequence[onnx.NodeProto], given: set[str]
) -> list[tuple[LayerGroup, list[onnx.NodeProto]]]:
    """The backward nodes in layers, last forward layer first; each node as early as its layer and inputs allow."""
    home = {node.name: at for at, (_, members) in enumerate(forward) for node in members if node.name}
    available = given | {o for _, members in forward for node in members for o in node.output}
    wanted = [(home.get(node.name.partition(_GRADIENT)[0], len(forward)), node) for node in nodes]
    found = []
    for at in reversed(range(len(forward))):
        run, later = list[tuple[int, onnx.NodeProto]](), list[tuple[int, onnx.NodeProto]]()
        for place, node in wanted:
            ready = place >= at and all(name in available for name in node.input if name)
            (run if ready else later).append((place, node))
            available.update(node.output if ready else ())
        wanted = later
        if run:
            group = forward[at][0]
            found.append((LayerGroup(group.layer, group.kind, "backward"), [node for _, node in run]))
    if wanted:
        raise ModelError(f"node {wanted[0][1].name!r}: its inputs are never made")
    return found
