"""Each com.microsoft operator's lowering, run by ONNX Runtime, against torch autograd in float64."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.training_steps import session

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor

from planc.errors import ModelError
from planc.kernels import opset_id
from planc.ort_training import algebra as ort_artifacts_rules  # noqa: F401 - registers the handlers
from planc.ort_training.lowering import ArtifactLowering
from planc.training.emit.builder import Builder, Var
from planc.training.emit.forms import table_for

Arrays = Mapping[str, np.ndarray]


def node(op_type: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are listed by spaces; `_` leaves one out."""
    read, made = ([n.replace("_", "") if n == "_" else n for n in listed.split()] for listed in (inputs, outputs))
    domain = "" if op_type in STANDARD else "com.microsoft"
    return helper.make_node(op_type, read, made, name=name or op_type, domain=domain, **attributes)


STANDARD = {
    "MaxPool",
    "AveragePool",
    "LayerNormalization",
    "Relu",
    "Dropout",
    "Transpose",
    "Reshape",
    "Shape",
    "Gather",
}


def run(
    nodes: Sequence[onnx.NodeProto], feeds: Arrays, outputs: Sequence[str], constants: Arrays | None = None,
    device: str = "cpu",
) -> list[np.ndarray]:  # fmt: skip
    """Lower `nodes`, then compute `outputs` from float32 `feeds`."""
    b = Builder()
    c = ArtifactLowering(b, table=table_for(device), constants=dict(constants or {}))
    given = {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in feeds.items()}
    for name, array in given.items():
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        c.known[name] = b.values[name] = Var(name, array.shape, dtype)
    for proto in nodes:
        c.run(proto)
    made = [c.ordered(c.tensor(name)) for name in outputs]
    graph = helper.make_graph(
        b.nodes, "lowered",
        [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in (b.values[n] for n in given)],
        [helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in made], list(b.initializers.values()),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), opset_id()]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(b.functions.values()), ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return session(model).run([v.name for v in made], given)


def autograd(forward: Callable[..., Tensor], inputs: Sequence[np.ndarray], dy: np.ndarray | None) -> list[np.ndarray]:
    """Gradients of `forward` at float inputs, in float64."""
    leaves = [torch.tensor(v, requires_grad=v.dtype == np.float64) for v in inputs]
    y = forward(*leaves)
    wanted = [t for t in leaves if t.requires_grad]
    grads = torch.autograd.grad(y, wanted, None if dy is None else torch.tensor(dy))
    return [g.numpy() for g in grads]


def close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(e).max()))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool, dict[str, Any]]] = {
    "ReluGrad": (torch.relu, True, {}),
    "TanhGrad": (torch.tanh, True, {}),
    "SigmoidGrad": (torch.sigmoid, True, {}),
    "LeakyReluGrad": (lambda x: F.leaky_relu(x, 0.2), True, {"alpha": 0.2}),
    "SoftmaxGrad_13": (lambda x: torch.softmax(x, 1), True, {"axis": 1}),
    "LogSoftmaxGrad_13": (lambda x: torch.log_softmax(x, -1), True, {"axis": -1}),
    "SoftmaxGrad": (lambda x: torch.softmax(x.flatten(1), 1).view_as(x), True, {"axis": 1}),
    "LogSoftmaxGrad": (lambda x: torch.log_softmax(x.flatten(1), 1).view_as(x), True, {"axis": 1}),
    "GeluGrad": (F.gelu, False, {}),
    "FastGeluGrad": (lambda x: F.gelu(x, approximate="tanh"), False, {}),
    "QuickGeluGrad": (lambda x: x * torch.sigmoid(1.702 * x), False, {}),
}


@pytest.mark.parametrize("op_type", ACTIVATIONS)
def test_activations(op_type: str, rng: np.random.Generator) -> None:
    forward, from_output, attributes = ACTIVATIONS[op_type]
    x, dy = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    second = forward(torch.tensor(x)).numpy() if from_output else x
    found = run([node(op_type, "dy second", "dx", **attributes)], {"dy": dy, "second": second}, ["dx"])
    close(found, autograd(forward, [x], dy))


@pytest.mark.parametrize(("op_type", "approximate"), [("BiasGelu", "none"), ("FastGelu", "tanh")])
def test_gelu_of_a_biased_tensor(op_type: str, approximate: str, rng: np.random.Generator) -> None:
    x, bias, dy = rng.standard_normal((3, 8)), rng.standard_normal(8), rng.standard_normal((3, 8))
    gradient = {"BiasGelu": "BiasGeluGrad_dX", "FastGelu": "FastGeluGrad"}[op_type]
    nodes = [node(op_type, "x bias", "y"), node(gradient, "dy x bias", "dx", "g")]
    y, dx = run(nodes, {"x": x, "bias": bias, "dy": dy}, ["y", "dx"])
    close([y], [F.gelu(torch.tensor(x + bias), approximate=approximate).numpy()])
    close([dx], autograd(lambda a: F.gelu(a + torch.tensor(bias), approximate=approximate), [x], dy))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("group", "dilation", "stride"), [(1, 1, 1), (2, 1, 2), (1, 2, 2), (4, 1, 1)])
def test_conv(device: str, group: int, dilation: int, stride: int, rng: np.random.Generator) -> None:
    x, w, b = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((4, 4 // group, 3, 3)), rng.standard_normal(4)

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, stride, 1, dilation, group)

    dy = rng.standard_normal(tuple(forward(*map(torch.tensor, (x, w, b))).shape))
    attributes = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2}
    nodes = [node("ConvGrad", "dy x w", "dx dw db", group=group, **attributes)]
    close(run(nodes, {"dy": dy, "x": x, "w": w}, ["dx", "dw", "db"], device=device), autograd(forward, [x, w, b], dy))


@pytest.mark.parametrize(("kernel", "stride", "pad", "include"), [(2, 2, 0, 0), (3, 2, 1, 1), (3, 1, 1, 0)])
def test_average_pool(kernel: int, stride: int, pad: int, include: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 8, 7))

    def forward(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, pad, count_include_pad=bool(include))

    dy = rng.standard_normal(tuple(forward(torch.tensor(x)).shape))
    window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "count_include_pad": include}
    nodes = [
        node("AveragePool", "x", "y", "/pool/AveragePool", **window),
        node("AveragePoolGrad", "dy", "dx", "/pool/AveragePool_Grad/AveragePoolGrad_0", **window),
    ]
    close(run(nodes, {"x": x, "dy": dy}, ["dx"]), autograd(forward, [x], dy))


def test_max_pool(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 9, 9))
    dy = rng.standard_normal((2, 3, 5, 5))
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [node("MaxPool", "x", "y mask", **window), node("MaxPoolGrad", "dy mask", "dx", "g", **window)]
    for device in ("cpu", "cuda"):
        found = run(nodes, {"x": x, "dy": dy}, ["dx"], device=device)
        close(found, autograd(lambda x: F.max_pool2d(x, 3, 2, 1), [x], dy))


def test_batch_norm_and_its_running_statistics(rng: np.random.Generator) -> None:
    x, dy, scale, shift = (rng.standard_normal(s) for s in ((4, 3, 5, 5), (4, 3, 5, 5), 3, 3))

    def forward(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, scale, shift, training=True, eps=1e-3)

    nodes = [
        node("BatchNormInternal", "x scale shift mean var", "y mean2 var2 saved inv", epsilon=1e-3, momentum=0.8),
        node("BatchNormalizationGrad", "dy x scale saved inv", "dx dscale dshift", epsilon=1e-3),
    ]
    feeds = {"x": x, "dy": dy, "scale": scale, "shift": shift, "mean": np.zeros(3), "var": np.ones(3)}
    found = run(nodes, feeds, ["y", "dx", "dscale", "dshift"])
    close(found, [forward(*map(torch.tensor, (x, scale, shift))).numpy(), *autograd(forward, [x, scale, shift], dy)])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_layer_norm(device: str, rng: np.random.Generator) -> None:
    x, dy, scale, shift = (rng.standard_normal(s) for s in ((4, 6, 8), (4, 6, 8), 8, 8))
    nodes = [
        node("LayerNormalization", "x scale shift", "y mean inv", axis=-1, epsilon=1e-4),
        node("LayerNormalizationGrad", "dy x scale mean inv", "dx dscale dshift", axis=-1),
    ]
    found = run(nodes, {"x": x, "dy": dy, "scale": scale, "shift": shift}, ["dx", "dscale", "dshift"], device=device)
    close(found, autograd(lambda x, s, b: F.layer_norm(x, (8,), s, b, 1e-4), [x, scale, shift], dy))


def test_dropout_by_its_own_mask(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((50, 40)), rng.standard_normal((50, 40))
    nodes = [node("Dropout", "x ratio training", "y mask"), node("DropoutGrad", "dy mask ratio training", "dx", "g")]
    constants = {"ratio": np.array(0.25, np.float32), "training": np.array(True)}
    y, dx, mask = run(nodes, {"x": x, "dy": dy}, ["y", "dx", "mask"], constants)
    assert 0.15 < 1 - mask.mean() < 0.35
    close([y, dx], [x * mask / 0.75, dy * mask / 0.75])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gather(device: str, rng: np.random.Generator) -> None:
    table, ids = rng.standard_normal((7, 3)), rng.integers(0, 7, (4, 5))
    dy = rng.standard_normal((4, 5, 3))
    nodes = [node("Shape", "table", "shape"), node("GatherGrad", "shape ids dy", "dx", axis=0)]
    found = run(nodes, {"table": table, "ids": ids, "dy": dy}, ["dx"], device=device)
    close(found, autograd(lambda t: t[torch.tensor(ids)], [table], dy))


def test_gather_elements(rng: np.random.Generator) -> None:
    x, ids, dy = rng.standard_normal((4, 6)), rng.integers(0, 6, (4, 9)), rng.standard_normal((4, 9))
    nodes = [node("GatherElementsGrad", "dy shape ids", "dx", axis=1)]
    found = run(nodes, {"dy": dy, "ids": ids}, ["dx"], {"shape": np.array([4, 6])})
    close(found, autograd(lambda t: torch.gather(t, 1, torch.tensor(ids)), [x], dy))


def test_slice(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 9))
    dy = rng.standard_normal((3, 4))
    constants = {"shape": np.array([6, 9]), "starts": np.array([1, 2]), "ends": np.array([4, 9]),
                 "axes": np.array([0, 1]), "steps": np.array([1, 2])}  # fmt: skip
    nodes = [node("SliceGrad", "dy shape starts ends axes steps", "dx")]
    close(run(nodes, {"dy": dy}, ["dx"], constants), autograd(lambda t: t[1:4, 2:9:2], [x], dy))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [None, 2])
@pytest.mark.parametrize("rank", [2, 4])
def test_cross_entropy(reduction: str, ignored: int | None, rank: int, rng: np.random.Generator) -> None:
    positions = (3, 2)[: rank - 2]
    scores, labels = rng.standard_normal((5, 4, *positions)), rng.integers(0, 4, (5, *positions))
    labels.flat[0] = 1 if ignored is None else ignored

    def forward(z: Tensor) -> Tensor:
        ignore = -1 if ignored is None else ignored
        return F.cross_entropy(z, torch.tensor(labels), reduction=reduction, ignore_index=ignore)

    dy = rng.standard_normal((5, *positions)) if reduction == "none" else np.array(1.5)
    extra = "" if ignored is None else " _ ignored"
    nodes = [
        node("SoftmaxCrossEntropyLossInternal", f"z labels{extra}", "loss logp", "f", reduction=reduction),
        node("SoftmaxCrossEntropyLossInternalGrad", f"dy logp labels{extra}", "dz", "g", reduction=reduction),
    ]
    constants = {} if ignored is None else {"ignored": np.array(ignored)}
    loss, dz = run(nodes, {"z": scores, "labels": labels, "dy": dy}, ["loss", "dz"], constants)
    close([loss, dz], [forward(torch.tensor(scores)).numpy(), *autograd(forward, [scores], dy)])


def test_products(rng: np.random.Generator) -> None:
    a, w, v = rng.standard_normal((2, 5, 3)), rng.standard_normal((4, 5)), rng.standard_normal((2, 6, 3))
    nodes = [
        node("FusedMatMul", "a w", "y", transA=1, transB=1, alpha=0.5),
        node("FusedMatMul", "a v", "z", "second", transB=1),
    ]
    y, z = run(nodes, {"a": a, "w": w, "v": v}, ["y", "z"])
    close([y, z], [0.5 * np.swapaxes(a, 1, 2) @ w.T, a @ np.swapaxes(v, 1, 2)])


def test_the_rest(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((3, 2))
    nodes = [
        node("ReduceAllL2", "a b", "norm"),
        node("ConcatTraining", "a b", "ab sizes", axis=1),
        node("SplitTraining", "ab sizes", "left right", axis=1),
        node("Scale", "a four", "up"),
        node("Scale", "a four", "down", "down", scale_down=1),
        node("ReduceSumTraining", "a first", "rows", keepdims=0),
    ]
    constants = {"four": np.array(4, np.float32), "first": np.array([0])}
    found = run(nodes, {"a": a, "b": b}, ["norm", "ab", "left", "right", "up", "down", "rows"], constants)
    norm = math.sqrt((a**2).sum() + (b**2).sum())
    close(found, [np.array(norm), np.concatenate([a, b], 1), a, b, 4 * a, a / 4, a.sum(0)])


def test_a_relu_keeps_its_output_alone(rng: np.random.Generator) -> None:
    b = Builder()
    c = ArtifactLowering(b)
    for name in ("x", "dy"):
        c.known[name] = b.values[name] = Var(name, (3, 4), TensorProto.FLOAT)
    c.run(node("Relu", "x", "y"))
    c.run(node("ReluGrad", "dy x", "dx"))
    assert [n.op_type for n in b.nodes if "x" in n.input] == ["Relu"]


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (node("GistDecode", "x", "y", "g"), "node 'g' (com.microsoft::GistDecode): planc has no lowering"),
        (node("MaxPoolGrad", "x mask", "dx", "p"), "forward operator that made 'mask' is not in the model"),
        (node("SliceGrad", "x x x x", "dx", "s"), "must not depend on data"),
        (node("FusedMatMul", "x x", "y", "m", transBatchA=1), "transBatchA is not supported"),
        (node("ReluGrad", "x missing", "y", "r"), "tensor 'missing'"),
    ],
)
def test_what_cannot_be_lowered_is_named(proto: onnx.NodeProto, said: str) -> None:
    b = Builder()
    c = ArtifactLowering(b)
    c.known["x"] = b.values["x"] = Var("x", (3, 4), TensorProto.FLOAT)
    with pytest.raises(ModelError, match=said.replace("(", r"\(").replace(")", r"\)")):
        c.run(proto)
