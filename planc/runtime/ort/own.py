"""Takes planc's own operators out of a model where a device has kernels for them."""

from collections.abc import Callable, Mapping

import onnx

from planc.kernels import DOMAIN, Call, TensorType, call_of
from planc.runtime.ort.custom_ops import Operator


def declared_types(model: onnx.ModelProto) -> Mapping[str, TensorType]:
    """The types of all tensors that the model declares."""
    graph = model.graph
    values = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}
    found = {name: TensorType(t.elem_type, tuple(d.dim_value for d in t.shape.dim)) for name, t in values.items()}
    return found | {i.name: TensorType(i.data_type, tuple(i.dims)) for i in graph.initializer}


def replaced(
    model: onnx.ModelProto, types: Mapping[str, TensorType], make: Callable[[str, Call], Operator | None]
) -> list[Operator]:
    """Give every node of planc's domain that `make` has a kernel for an operator of its own, and take its function out.

    `make` gets the function's name and the call; equal calls share one operator. Functions without a kernel stay.
    """
    made: dict[str, Operator | None] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        name = node.op_type
        if name not in made:
            made[name] = make(name, call_of(node, types))
        operator = made[name]
        if operator is not None:
            node.op_type = operator.name
            del node.attribute[:]
    kept = [f for f in model.functions if f.domain != DOMAIN or made.get(f.name) is None]
    del model.functions[:]
    model.functions.extend(kept)
    return [operator for operator in made.values() if operator is not None]
