"""The first steps of an import: tensors get numbers, and nodes that compute nothing go."""

import math

import numpy as np
import onnx

from planc.graph.operators import VIEWS
from planc.import_budget import spend_time
from planc.importer.draft import Draft, Tensors
from planc.importer.load import INLINE_CONSTANT_BYTES, Skeleton
from planc.importer.wired import Wired


def wired(bare: Skeleton) -> Draft:
    """The step with its tensors by number: inputs and large constants first, then what nodes write, in their order."""
    tensors = Tensors()
    for name in (*bare.inputs, *sorted(bare.constants, key=lambda name: is_small(bare.constants[name]))):
        tensors.add(name, bare.types[name])
    nodes = [_wired(proto, bare, tensors) for proto in bare.nodes]
    state = {tensors.index[name]: tensors.index[out] for name, out in bare.metadata.states.items()}
    kept = {name: tensors.index[name] for name in bare.outputs}
    return Draft(bare, tensors, nodes, dict(bare.constants), state, kept)


def fold(draft: Draft) -> None:
    """Take out the nodes that read no values: those that ask for a shape become constants, views share their source's
    bytes."""
    draft.nodes = [node for node in draft.nodes if not _fold_shape(draft, node) and not _join_view(draft, node)]


def is_small(constant: np.ndarray) -> bool:
    """Whether a constant is written into every session that reads it."""
    return bool(constant.nbytes <= INLINE_CONSTANT_BYTES)


def _wired(proto: onnx.NodeProto, bare: Skeleton, tensors: Tensors) -> Wired:
    """The node with its tensors; it or a copy of it carries a name: messages need one."""
    spend_time(proto.name)
    outputs = tuple([tensors.add(name, bare.types[name]) if name else -1 for name in proto.output])
    if not proto.name:
        unnamed, proto = proto, onnx.NodeProto()
        proto.CopyFrom(unnamed)
        proto.name = f"{proto.op_type}:{next((o for o in proto.output if o), '')}"
    return Wired(proto, proto.op_type, tuple([tensors.index[name] for name in proto.input]), outputs)


def _fold_shape(draft: Draft, node: Wired) -> bool:
    """Make a Shape or Size node a constant. ONNX Runtime runs these ahead of file order, on which addresses rely."""
    if node.op_type not in ("Shape", "Size") or node.inputs[0] < 0:
        return False
    shape = draft.tensors.types[node.inputs[0]][1]
    if node.op_type == "Size":
        value = np.array(math.prod(shape), np.int64)
    else:
        part = {a.name: a.i for a in node.proto.attribute}
        value = np.array(shape[part.get("start", 0) : part.get("end", len(shape))], np.int64)
    draft.constants[draft.tensors.names[node.outputs[0]]] = value
    return True


def _join_view(draft: Draft, node: Wired) -> bool:
    """Join a view's output to its input; a view of a constant becomes a constant."""
    if node.op_type not in VIEWS:
        return False
    tensors, (source, output) = draft.tensors, (node.inputs[0], node.outputs[0])
    value = draft.constants.get(tensors.names[source])
    if value is not None:
        draft.constants[tensors.names[output]] = value.reshape(tensors.types[output][1])
    else:
        tensors.places.join(output, source)
    return True
