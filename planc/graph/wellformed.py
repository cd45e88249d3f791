"""Whether an ONNX model hangs together: what protobuf lets pass, and ONNX's own checker too or only by an exception."""

from collections.abc import Iterator
from itertools import chain
from math import prod
from operator import attrgetter

import onnx
from onnx import TensorProto, numpy_helper

from planc.graph.annotations import node_annotation

INFERENCE_ERRORS = (
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError, MemoryError,
)  # fmt: skip
"""What ONNX's checker and shape inference raise for a model that they refuse, absurd sizes included."""

MOST_NODES = 1 << 20
"""More than ten times those of the deepest network that planc is measured on."""

_LONGEST_NAME = 4096

RESERVED = "@planc."
"""In the names of tensors that the import adds, and in no other."""

_PACKED = {TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1}
"""Several elements share a byte."""


def malformed(model: onnx.ModelProto) -> Iterator[str]:
    """What is wrong with the structure of `model`, each naming the node or tensor: text that is none, names with line
    breaks, unknown element types, tensors read before they are made, made twice, or never."""
    texts = list(_not_text(model))
    texts += _too_long(model.graph)
    texts += _reserved(model.graph)
    texts += _broken(model.graph) if not texts else ()
    yield from texts
    if not texts:
        yield from _types(model.graph)
        yield from _order(model.graph)


def unfilled(model: onnx.ModelProto) -> Iterator[str]:
    """Initializers of a well-formed `model` that do not hold the values of their shape, and have none elsewhere."""
    for tensor in model.graph.initializer:
        if not is_external(tensor) and not _is_full(tensor):
            yield f"initializer {tensor.name!r} does not hold the values of its shape {list(tensor.dims)}"


def _not_text(model: onnx.ModelProto) -> Iterator[str]:
    """Protobuf hands out bytes where text is not UTF-8."""
    if not set(map(type, _texts(model))) <= {str}:
        for text in _texts(model):
            if not isinstance(text, str):
                yield f"the name {text!r} is not UTF-8 text; the file is damaged"


def _too_long(graph: onnx.GraphProto) -> Iterator[str]:
    for named in chain(graph.node, graph.input, graph.output, graph.initializer):
        if len(named.name) > _LONGEST_NAME:
            yield f"the name {named.name[:40]!r}… has {len(named.name)} characters, at most {_LONGEST_NAME} are expected"


def _broken(graph: onnx.GraphProto) -> Iterator[str]:
    """Names of several lines: in a message, the second would pass for a line of planc's own."""
    join = chain.from_iterable
    named = map(attrgetter("name", "op_type", "domain"), graph.node)
    tensors = map(attrgetter("name"), chain(graph.input, graph.output, graph.initializer))
    layers = join(filter(None, map(node_annotation, graph.node)))
    for name in chain(
        join(named),
        join(map(attrgetter("input"), graph.node)),
        join(map(attrgetter("output"), graph.node)),
        tensors,
        layers,
    ):
        if "\n" in name or "\r" in name:
            yield f"the name {name[:80]!r} has a line break; rename it"


def _reserved(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that the import gives to tensors that it adds: two of one name would be one."""
    made = chain.from_iterable(map(attrgetter("output"), graph.node))
    for name in chain(map(attrgetter("name"), chain(graph.input, graph.initializer)), made):
        if isinstance(name, str) and RESERVED in name:
            yield f"tensor {name!r} has a name with {RESERVED!r}, which planc gives to tensors of its own: rename it"


def _texts(model: onnx.ModelProto) -> Iterator[str]:
    """Every text of the model, most of them by iterators of C: there are a dozen a node."""
    graph, join = model.graph, chain.from_iterable
    attributes = join(map(attrgetter("attribute"), graph.node))
    props = chain(model.metadata_props, join(map(attrgetter("metadata_props"), graph.node)))
    dims = (info.type.tensor_type.shape.dim for info in chain(graph.input, graph.output))
    named = chain(graph.node, graph.input, graph.output, graph.value_info, graph.initializer, attributes)
    return chain(
        map(attrgetter("name"), named),
        map(attrgetter("op_type"), graph.node),
        map(attrgetter("domain"), chain(graph.node, model.opset_import)),
        join(map(attrgetter("input"), graph.node)),
        join(map(attrgetter("output"), graph.node)),
        join(map(attrgetter("key", "value"), props)),
        map(attrgetter("dim_param"), join(dims)),
    )


def _types(graph: onnx.GraphProto) -> Iterator[str]:
    known = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    sound: set[bytes] = set()
    for info in chain(graph.input, graph.output, graph.value_info):
        form = info.type.SerializeToString()
        if form in sound:  # few types serve many tensors
            continue
        sound.add(form)
        tensor = info.type.tensor_type
        if info.type.HasField("tensor_type") and tensor.elem_type not in known:
            yield f"tensor {info.name!r} has the unknown element type {tensor.elem_type}"
        if any(d.HasField("dim_value") and d.dim_value < 0 for d in tensor.shape.dim):
            yield f"tensor {info.name!r} has a negative dimension"
    for tensor in graph.initializer:
        if tensor.data_type not in known:
            yield f"initializer {tensor.name!r} has the unknown element type {tensor.data_type}"


def is_external(tensor: TensorProto) -> bool:
    """Whether the values lie in a file beside the model."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor in the graph and in attributes of its nodes and functions. Those of subgraphs are not among them:
    control flow is refused."""
    yield from model.graph.initializer
    nodes = (model.graph.node, *(function.node for function in model.functions))
    for attribute in (attribute for part in nodes for node in part for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def is_undrawn(tensor: TensorProto) -> bool:
    """Whether a float initializer has a shape and no values: those of a network that was built to be looked at."""
    return not (tensor.HasField("raw_data") or tensor.float_data or is_external(tensor)) and prod(tensor.dims) > 0


def _is_full(tensor: TensorProto) -> bool:
    if any(d < 0 for d in tensor.dims):
        return False
    if tensor.HasField("raw_data") and tensor.data_type not in _PACKED:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        return bool(len(tensor.raw_data) == prod(tensor.dims) * itemsize)
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _order(graph: onnx.GraphProto) -> Iterator[str]:
    made = {x.name for x in chain(graph.input, graph.initializer)}
    for node in graph.node:
        where = f"node {node.name or next(iter(node.output), '')!r} ({node.op_type})"
        for name in node.input:
            if name and name not in made:
                yield f"{where} reads {name!r}, which nothing before it makes"
        for name in node.output:
            if name and name in made:
                yield f"{where} makes {name!r}, which is there already"
            made.add(name)
    for info in graph.output:
        if info.name not in made:
            yield f"the output {info.name!r} is made by no node"
