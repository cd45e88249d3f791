"""Whole networks: loss and every parameter's gradient against torch autograd in float64.

The reference executes the forward ONNX model node by node with torch functions; it shares nothing with planc's rules.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.training_steps import random_batch, run_steps, state_pairs

from planc.training import Optimizer, differentiate
from planc.training.rules import GRADIENTS
from planc.zoo import ZooOptions, build_forward

torch = pytest.importorskip("torch")
F = torch.nn.functional

SMALL: dict[str, dict[str, int]] = {
    "alexnet": {"image": 67, "width": 8},
    "vgg16": {"image": 32, "width": 4},
    "googlenet": {"image": 48, "width": 8},
    "inception_v4": {"image": 75, "width": 4},
    "resnet18": {"image": 32, "width": 8},
    "resnet50": {"image": 32, "width": 8},
    "densenet121": {"image": 32, "width": 8},
    "mobilenet_v2": {"image": 64, "width": 8},
    "squeezenet": {"image": 48, "width": 12},
    "shufflenet": {"image": 64, "width": 12},
    "unet": {"image": 32, "width": 4},
    "unet_bilinear": {"image": 32, "width": 4},
    "vit_b16": {"image": 32, "width": 64, "depth": 2},
    "bert_base": {"width": 64, "depth": 2, "seq": 16},
    "gpt2": {"width": 64, "depth": 2, "seq": 16},
    "mlp": {"width": 16},
}

FLOOR, FACTOR = 1e-5, 4.0
"""A gradient may be off by FACTOR times what torch itself loses in float32, and always by FLOOR (relative norms).

Deep narrow batch-norm networks are ill-conditioned: torch in float32 is off by some percent on them too.
"""


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def padded(x: Any, pads: list[int], value: float) -> Any:
    half = len(pads) // 2
    flat = [p for axis in reversed(range(half)) for p in (pads[axis], pads[half + axis])]
    return F.pad(x, flat, value=value)


def convolve(a: dict[str, Any], x: Any, w: Any, bias: Any = None) -> Any:
    return F.conv2d(padded(x, a.get("pads", [0] * 4), 0.0), w, bias, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def max_pool(a: dict[str, Any], x: Any) -> Any:
    pads = a.get("pads", [0] * 4)
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads[:2], ceil_mode=bool(a.get("ceil_mode", 0)))


def average_pool(a: dict[str, Any], x: Any) -> Any:
    pads = a.get("pads", [0] * 4)
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", 1), pads[:2], count_include_pad=bool(a.get("count_include_pad", 0)))


def batch_norm(a: dict[str, Any], x: Any, g: Any, b: Any, _mean: Any, _variance: Any) -> Any:
    return F.batch_norm(x, None, None, g, b, True, 0.1, a["epsilon"])


def local_response_norm(a: dict[str, Any], x: Any) -> Any:
    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["bias"])


def gemm(a: dict[str, Any], x: Any, w: Any, bias: Any = 0.0) -> Any:
    return x @ (w.T if a.get("transB") else w) + bias


def resize(a: dict[str, Any], x: Any, _roi: Any, scales: Any) -> Any:
    return F.interpolate(x, scale_factor=[float(s) for s in scales[2:]], mode="bilinear")


def take_slice(_: dict[str, Any], x: Any, starts: Any, ends: Any, axes: Any) -> Any:
    return x.narrow(int(axes[0]), int(starts[0]), int(ends[0] - starts[0]))


def layer_norm(a: dict[str, Any], x: Any, g: Any, b: Any) -> Any:
    return F.layer_norm(x, g.shape, g, b, a["epsilon"])


TORCH: dict[str, Callable[..., Any]] = {
    "Conv": convolve, "MaxPool": max_pool, "AveragePool": average_pool, "BatchNormalization": batch_norm,
    "LRN": local_response_norm, "Gemm": gemm, "Resize": resize, "Slice": take_slice, "LayerNormalization": layer_norm,
    "ConvTranspose": lambda a, x, w, b: F.conv_transpose2d(x, w, b, a["strides"]),
    "Relu": lambda a, x: F.relu(x),
    "Clip": lambda a, x, low, high: F.hardtanh(x, float(low), float(high)),
    "Gelu": lambda a, x: F.gelu(x, approximate=a["approximate"]),
    "Add": lambda a, x, y: x + y,
    "Mul": lambda a, x, y: x * y,
    "MatMul": lambda a, x, y: x @ y,
    "Softmax": lambda a, x: x.softmax(a["axis"]),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Split": lambda a, x: x.chunk(a["num_outputs"], a["axis"]),
    "Reshape": lambda a, x, shape: x.reshape(tuple(int(d) for d in shape)),
    "Flatten": lambda a, x: x.flatten(1),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Expand": lambda a, x, shape: x.expand(tuple(int(d) for d in shape)),
    "Gather": lambda a, table, ids: table[ids],
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), True),
}  # fmt: skip


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray], dtype: Any) -> tuple[float, dict[str, np.ndarray]]:
    """The cross-entropy loss and the gradient of every float initializer, computed in torch's `dtype`."""
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
        results = TORCH[node.op_type](attributes(node), *(values[n] for n in node.input))
        listed = results if isinstance(results, tuple) else (results,)
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


@pytest.mark.parametrize("name", SMALL)
def test_network_agrees_with_autograd(name: str) -> None:
    """Momentum starts at zero, so its next value is the gradient itself."""
    forward = without_dropout(build_forward(name, ZooOptions(batch=4, classes=10, **SMALL[name])).model)
    step = differentiate(forward, loss="cross-entropy", optimizer=Optimizer("momentum"))
    feeds, state = random_batch(step), state_pairs(step)
    results = run_steps(step, feeds)[0]
    loss, expected = reference(forward, feeds, torch.float64)
    single_loss, single = reference(forward, feeds, torch.float32)
    assert abs(float(results["loss"]) - loss) <= FACTOR * abs(single_loss - loss) + FLOOR * abs(loss)
    found = {n.removesuffix(".momentum"): results[following] for n, following in state.items() if n.endswith(".momentum")}
    assert set(found) <= set(expected)
    unexplained = set(expected) - set(found)
    assert all(not np.any(expected[n]) or expected[n].ndim == 0 or "mask" in n for n in unexplained), unexplained
    assert distance(found, expected) <= FACTOR * distance(single, expected, found) + FLOOR


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: Any = None) -> float:
    """|found - expected| / |expected| over all parameters together."""
    names = names or found
    error = sum(np.sum((found[n] - expected[n]) ** 2) for n in names)
    return float(np.sqrt(error / sum(np.sum(expected[n] ** 2) for n in names)))


def test_every_operator_of_the_zoo_has_a_rule() -> None:
    for name, options in SMALL.items():
        used = {node.op_type for node in build_forward(name, ZooOptions(batch=1, **options)).model.graph.node}
        assert used <= set(GRADIENTS), name
