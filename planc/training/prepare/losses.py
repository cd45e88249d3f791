"""Puts a loss on a forward model: standard nodes from the model's output to a scalar named `loss`."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.errors import ModelError, UsageError
from planc.graph.annotations import annotate_node
from planc.training.emit.builder import HALVES

LABELS = "labels"
TARGET = "target"
LOSS = "loss"

LOSSES = ("cross-entropy", "mse", "output")


def append_loss(model: onnx.ModelProto, loss: str) -> str:
    """Append the nodes of `loss` to `model` in place and return the name of the scalar to minimise.

    `cross-entropy` adds the int64 input `labels`: the mean over all positions of -log softmax(logits)[label], for
    logits [N, K], [N, T, K] (classes last) or [N, K, H, W]. `mse` adds the input `target` of the output's shape: the
    mean squared difference. `output` takes the model's own scalar output, `output:NAME` the one of that name.
    The model must have inferred, concrete shapes. Raises UsageError or ModelError when the loss does not fit.
    """
    kind, _, name = loss.partition(":")
    if kind not in LOSSES or (name and kind != "output"):
        raise UsageError(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}, or output:NAME")
    if kind == "output":
        return _named_output(model, name)
    output = model.graph.output[0]
    if len(model.graph.output) > 1:
        listed = ", ".join(o.name for o in model.graph.output)
        raise ModelError(f"the loss {kind!r} needs a model with one output, but it has {listed}; remove the others")
    taken = {i.name for i in model.graph.input} | {n for node in model.graph.node for n in node.output}
    for reserved in (LABELS, TARGET, LOSS):
        if reserved in taken:
            raise ModelError(f"tensor {reserved!r} of the model has the name of a loss tensor; rename it")
    shape, dtype = [d.dim_value for d in output.type.tensor_type.shape.dim], output.type.tensor_type.elem_type
    name = output.name
    if dtype in HALVES:
        _node(model.graph, "Cast", [name], "loss.wide", kind, to=TensorProto.FLOAT)
        name, dtype = "loss.wide", TensorProto.FLOAT
    _FORMS[kind](model.graph, name, shape, dtype)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOSS, dtype, []))
    return LOSS


def _named_output(model: onnx.ModelProto, name: str) -> str:
    scalars = {
        o.name for o in model.graph.output if all(d.dim_value == 1 for d in o.type.tensor_type.shape.dim)
    }  # fmt: skip
    wanted = name or next((o.name for o in model.graph.output if o.name in scalars), "")
    if wanted not in scalars:
        listed = ", ".join(o.name for o in model.graph.output)
        raise ModelError(f"the loss must be a scalar output of the model; {name or 'none'} is not among: {listed}")
    return wanted


def _node(graph: onnx.GraphProto, op_type: str, inputs: list[str], output: str, kind: str, **attributes: Any) -> None:
    node = helper.make_node(op_type, inputs, [output], name=f"loss.{op_type}.{len(graph.node)}", **attributes)
    annotate_node(node, LOSS, kind, "forward")
    graph.node.append(node)


def _vector(graph: onnx.GraphProto, name: str, numbers: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return name


def _cross_entropy(graph: onnx.GraphProto, logits: str, shape: list[int], _dtype: int) -> None:
    if len(shape) not in (2, 3, 4):
        raise ModelError(f"cross-entropy needs an output of rank 2, 3 or 4, but {logits!r} has shape {shape}")
    label_shape = [shape[0], *shape[2:]] if len(shape) == 4 else shape[:-1]
    graph.input.append(helper.make_tensor_value_info(LABELS, TensorProto.INT64, label_shape))
    labels = LABELS
    if len(shape) == 3:
        rows = shape[0] * shape[1]
        flat = _vector(graph, "loss.logits_shape", [rows, shape[2]])
        _node(graph, "Reshape", [logits, flat], "loss.logits", "cross-entropy")
        _node(graph, "Reshape", [LABELS, _vector(graph, "loss.labels_shape", [rows])], "loss.labels", "cross-entropy")
        logits, labels = "loss.logits", "loss.labels"
    _node(graph, "SoftmaxCrossEntropyLoss", [logits, labels], LOSS, "cross-entropy", reduction="mean")


def _mse(graph: onnx.GraphProto, output: str, shape: list[int], dtype: int) -> None:
    graph.input.append(helper.make_tensor_value_info(TARGET, dtype, shape))
    _node(graph, "Sub", [output, TARGET], "loss.difference", "mse")
    _node(graph, "ReduceSumSquare", ["loss.difference"], "loss.squares", "mse", keepdims=0)
    count = numpy_helper.from_array(np.array(np.prod(shape), helper.tensor_dtype_to_np_dtype(dtype)), "loss.count")
    graph.initializer.append(count)
    _node(graph, "Div", ["loss.squares", "loss.count"], LOSS, "mse")


_FORMS = {"cross-entropy": _cross_entropy, "mse": _mse}
