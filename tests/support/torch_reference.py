"""Executes a forward ONNX model node by node with torch functions; shares nothing with planc's rules."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")  # an optional package: tests that need it are skipped without it
F = torch.nn.functional
torch.set_num_threads(1)  # small tensors: a second thread costs more than it saves, above all on a busy machine

Observer = Callable[[onnx.NodeProto, Sequence[Any]], None]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def convolve(a: dict[str, Any], x: Any, w: Any, bias: Any = None) -> Any:
    pads = a.get("pads", [0] * 4)
    return F.conv2d(x, w, bias, a.get("strides", 1), pads[:2], a.get("dilations", 1), a.get("group", 1))


def max_pool(a: dict[str, Any], x: Any) -> Any:
    pads = a.get("pads", [0] * 4)
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads[:2], ceil_mode=bool(a.get("ceil_mode", 0)))


def average_pool(a: dict[str, Any], x: Any) -> Any:
    pads = a.get("pads", [0] * 4)
    included = bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads[:2], count_include_pad=included)


def batch_norm(a: dict[str, Any], x: Any, g: Any, b: Any, _mean: Any, _variance: Any) -> Any:
    return F.batch_norm(x, None, None, g, b, True, 0.1, a["epsilon"])


def local_response_norm(a: dict[str, Any], x: Any) -> Any:
    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["bias"])


def gemm(a: dict[str, Any], x: Any, w: Any, bias: Any = 0.0) -> Any:
    return x @ (w.T if a.get("transB") else w) + bias


def resize(_: dict[str, Any], x: Any, _roi: Any, scales: Any) -> Any:
    return F.interpolate(x, scale_factor=scales[2:].tolist(), mode="bilinear")


def take_slice(_: dict[str, Any], x: Any, starts: Any, ends: Any, axes: Any) -> Any:
    return x.narrow(int(axes[0]), int(starts[0]), int(ends[0] - starts[0]))


def layer_norm(a: dict[str, Any], x: Any, g: Any, b: Any) -> Any:
    return F.layer_norm(x, g.shape, g, b, a["epsilon"])


TORCH: dict[str, Callable[..., Any]] = {
    "Conv": convolve, "MaxPool": max_pool, "AveragePool": average_pool, "BatchNormalization": batch_norm,
    "LRN": local_response_norm, "Gemm": gemm, "Resize": resize, "Slice": take_slice, "LayerNormalization": layer_norm,
    "ConvTranspose": lambda a, x, w, b: F.conv_transpose2d(x, w, b, a["strides"]),
    "Relu": lambda _, x: F.relu(x),
    "Clip": lambda _, x, low, high: F.hardtanh(x, low.item(), high.item()),
    "Gelu": lambda a, x: F.gelu(x, approximate=a["approximate"]),
    "Add": lambda _, x, y: x + y,
    "Mul": lambda _, x, y: x * y,
    "MatMul": lambda _, x, y: x @ y,
    "Softmax": lambda a, x: x.softmax(a["axis"]),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Split": lambda a, x: x.chunk(a["num_outputs"], a["axis"]),
    "Reshape": lambda _, x, shape: x.reshape(tuple(int(d) for d in shape)),
    "Flatten": lambda _, x: x.flatten(1),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Expand": lambda _, x, shape: x.expand(tuple(int(d) for d in shape)),
    "Gather": lambda _, table, ids: table[ids],
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), True),
}  # fmt: skip


def reference(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], dtype: Any, observe: Observer = lambda _node, _outputs: None
) -> tuple[float, dict[str, np.ndarray]]:
    """The cross-entropy loss and the gradient of every float initializer, computed in torch's `dtype`.

    `observe` is called before each node with no outputs and after it with its outputs.
    """
    values: dict[str, Any] = {"": None}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        values[tensor.name] = torch.from_numpy(array.copy())
        if array.dtype == np.float32:
            values[tensor.name] = values[tensor.name].to(dtype).requires_grad_()
    leaves = {n: v for n, v in values.items() if v is not None and v.requires_grad}
    for info in model.graph.input:
        fed = torch.from_numpy(feeds[info.name])
        values[info.name] = fed.to(dtype) if fed.is_floating_point() else fed
    for node in model.graph.node:
        observe(node, ())
        results = TORCH[node.op_type](attributes(node), *(values[n] for n in node.input))
        listed = results if isinstance(results, tuple) else (results,)
        observe(node, listed)
        values.update(zip(node.output, listed, strict=False))
    logits, labels = values[model.graph.output[0].name], torch.from_numpy(feeds["labels"])
    loss = F.cross_entropy(logits.movedim(2, 1) if logits.ndim == 3 else logits, labels)
    loss.backward()
    return float(loss.detach()), {n: v.grad.numpy() for n, v in leaves.items() if v.grad is not None}


def without_dropout(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dropout is random: tested on its own."""
    alias: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = alias.get(name, name)
        if node.op_type == "Dropout":
            alias[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model
