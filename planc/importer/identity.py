"""The content hash of a training graph: what it computes, in which layers, and nothing else.

Two files of one model differ in much that means nothing: the order and the encoding of initializers, inferred shapes, doc
strings, the version of the file format. A plan or cost table is for all of them. Values of state are left out, so that a
plan stays valid while the model trains.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import onnx

from planc.graph.annotations import KIND, LAYER, PHASE

_KEPT = (LAYER, KIND, PHASE)


def content_hash(
    bare: onnx.ModelProto, given: int, constants: Mapping[str, np.ndarray], states: Mapping[str, str], loss: str | None
) -> str:
    """SHA-256 over operator sets, nodes in order, types of the first `given` inputs and of the outputs, constants, state
    pairs and loss. `bare` is the model without values, other inputs of it are constants."""
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)

    add(*sorted(o.SerializeToString(deterministic=True) for o in bare.opset_import))
    add(b"inputs", *map(_typed, bare.graph.input[:given]), b"outputs", *map(_typed, bare.graph.output))
    add(b"nodes", *map(_node, bare.graph.node))
    add(b"functions", *sorted(f.SerializeToString(deterministic=True) for f in bare.functions))
    for name in sorted(constants):
        value = constants[name]
        add(name.encode(), value.dtype.str.encode(), str(value.shape).encode(), np.ascontiguousarray(value).tobytes())
    for name in sorted(states):
        add(b"state", name.encode(), states[name].encode())
    add(b"loss", (loss or "").encode())
    return digest.hexdigest()


def _typed(info: onnx.ValueInfoProto) -> bytes:
    tensor = info.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    return f"{info.name} {tensor.elem_type} {shape}".encode()


def _node(node: onnx.NodeProto) -> bytes:
    """The node without what only people read; attributes in the order of their names."""
    plain = onnx.NodeProto(
        name=node.name, op_type=node.op_type, domain=node.domain, input=node.input, output=node.output
    )
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        plain.attribute.add().CopyFrom(attribute)
        plain.attribute[-1].ClearField("doc_string")
    plain.metadata_props.extend(sorted((p for p in node.metadata_props if p.key in _KEPT), key=lambda p: p.key))
    return bytes(plain.SerializeToString(deterministic=True))
