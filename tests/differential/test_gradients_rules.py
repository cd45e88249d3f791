"""Every gradient rule, run by ONNX Runtime in float32, against torch autograd in float64."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.rule_cases import FURTHER, Case, i64
from support.training_steps import run_steps

from planc.training import Optimizer, differentiate
from planc.training.rules import GRADIENTS

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = 2e-5
"""Largest error relative to the largest gradient or parameter, whichever is larger: float32 against float64."""

MODEL_ONLY = {"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss", "Dropout", "FusedAttention", "FusedRotary"}
MODEL_ONLY |= {"RandomNormalLike", "RandomUniformLike"}
"""Rules covered by tests of their own: losses need labels, dropout is random, attention is found in whole models
(`tests/unit/kernels/test_attention.py`)."""


def conv(stride=1, padding=0, dilation=1, groups=1):
    return lambda x, w, *b: F.conv2d(
        x, w, *(b or (None,)), stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def conv_case(label, x, w, bias=False, stride=1, pads=(0, 0), dilation=1, group=1, **more):
    shapes = [x, w, [w[0]]] if bias else [x, w]
    attributes = {"strides": [stride] * 2, "pads": [*pads, *pads], "dilations": [dilation] * 2, "group": group}
    return Case("Conv", shapes, conv(stride, pads, dilation, group), attributes, label=label, **more)


def same_conv(x, w):
    pad = [0, 1, 0, 1]
    return F.conv2d(F.pad(x, pad), w, stride=2)


def transposed(stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return lambda x, w, *b: F.conv_transpose2d(
        x,
        w,
        *(b or (None,)),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
    )


def average(**settings):
    return lambda x: F.avg_pool2d(x, **settings)


def lrn(x):
    return F.local_response_norm(x, 5, alpha=0.3, beta=0.75, k=1.5)


def batch_norm_frozen(x, g, b):
    return F.batch_norm(x, MEAN_T, VAR_T, g, b, False, 0.1, 1e-5)


MEAN, VAR = np.array([0.1, -0.4, 0.3], np.float32), np.array([0.8, 1.7, 1.1], np.float32)
MEAN_T, VAR_T = torch.from_numpy(MEAN).double(), torch.from_numpy(VAR).double()
IDS = np.array([[2, 0, 2], [4, 2, 0]], np.int64)
MASK = np.random.default_rng(5).random((3, 4)) > 0.5
MASK_T = torch.from_numpy(MASK)

EINSUMS = {
    "ij,jk->ik": [[3, 4], [4, 5]],
    "bhqd,bhkd->bhqk": [[2, 3, 4, 5], [2, 3, 6, 5]],
    "bqhd,bkhd->bhqk": [[2, 4, 3, 5], [2, 6, 3, 5]],
    "...ij,jk->...ik": [[2, 3, 4], [4, 5]],
    "i,j->ji": [[3], [4]],
    "bi,bi->b": [[3, 4], [3, 4]],
    "ijk,kl,lm->im": [[2, 3, 4], [4, 5], [5, 6]],
    "ij": [[4, 3]],
    "ij->j": [[3, 4]],
    "ij,kj": [[3, 4], [5, 4]],
    "ab,ab->ab": [[3, 4], [3, 4]],
}

CASES = [
    Case("Add", [[2, 3, 4], [3, 1]], torch.add),
    Case("Sum", [[2, 3], [2, 3], [3]], lambda a, b, c: a + b + c),
    Case("Sub", [[3, 1], [2, 3, 4]], torch.sub),
    Case("Mul", [[2, 3, 4], [1, 3, 1]], torch.mul),
    Case("Div", [[2, 3, 4], [3, 4]], torch.div, low=0.5, high=2),
    Case("Pow", [[3, 4]], lambda x: x**2, constants=[np.float32(2)], label="square"),
    Case("Pow", [[3, 4]], lambda x: x**-0.5, constants=[np.float32(-0.5)], low=0.5, label="root"),
    Case("Pow", [[3, 4], [4]], torch.pow, low=0.5, high=2, label="general"),
    Case("Neg", [[3, 4]], torch.neg),
    Case("Abs", [[3, 4]], torch.abs),
    Case("Sin", [[3, 4]], torch.sin),
    Case("Cos", [[3, 4]], torch.cos),
    Case("Erf", [[3, 4]], torch.erf),
    Case("Exp", [[3, 4]], torch.exp),
    Case("Log", [[3, 4]], torch.log, low=0.5),
    Case("Sqrt", [[3, 4]], torch.sqrt, low=0.5),
    Case("Reciprocal", [[3, 4]], torch.reciprocal, low=0.5),
    Case("Max", [[3, 4], [4]], torch.maximum),
    Case("Min", [[3, 4], [3, 1]], torch.minimum),
    Case("Where", [[3, 4], [4]], lambda a, b: torch.where(MASK_T, a, b), constants=[MASK], constants_first=True),
    Case("Identity", [[3, 4]], lambda x: x * 1),
    Case("Cast", [[3, 4]], lambda x: x * 1, {"to": TensorProto.DOUBLE}),
    Case("Relu", [[3, 4]], torch.relu),
    Case("LeakyRelu", [[3, 4]], lambda x: F.leaky_relu(x, 0.2), {"alpha": 0.2}),
    Case("LeakyRelu", [[3, 4]], lambda x: F.leaky_relu(x, -0.2), {"alpha": -0.2}, label="negative"),
    Case("PRelu", [[2, 3, 4], [3, 1]], lambda x, s: torch.where(x > 0, x, x * s)),
    Case("Elu", [[3, 4]], lambda x: F.elu(x, 0.7), {"alpha": 0.7}),
    Case("Sigmoid", [[3, 4]], torch.sigmoid),
    Case("Tanh", [[3, 4]], torch.tanh),
    Case("Softplus", [[3, 4]], F.softplus),
    Case("HardSigmoid", [[3, 4]], F.hardsigmoid, {"alpha": 1 / 6, "beta": 0.5}, low=-5, high=5),
    Case("HardSwish", [[4, 5]], F.hardswish, low=-5, high=5),
    Case("Clip", [[4, 5]], F.relu6, constants=[np.float32(0), np.float32(6)], low=-3, high=9),
    Case("Clip", [[4, 5]], lambda x: x.clamp(min=0.1), constants=[np.float32(0.1)], label="min"),
    Case("Gelu", [[3, 5]], F.gelu, opset=20, low=-3, high=3),
    Case(
        "Gelu",
        [[3, 5]],
        lambda x: F.gelu(x, approximate="tanh"),
        {"approximate": "tanh"},
        opset=20,
        low=-3,
        high=3,
        label="tanh",
    ),
    Case("Mish", [[3, 5]], F.mish, low=-3, high=3, label="function"),
    Case("Selu", [[3, 5]], F.selu, low=-3, high=3, label="function"),
    Case(
        "GroupNormalization",
        [[2, 6, 3, 2], [6], [6]],
        lambda x, g, b: F.group_norm(x, 3, g, b, 1e-5),
        {"num_groups": 3},
        opset=21,
        label="function",
    ),
    Case("RMSNormalization", [[2, 3, 8], [8]], lambda x, g: F.rms_norm(x, (8,), g, 1e-5), opset=23, label="function"),
    Case(
        "Attention",
        [[2, 2, 5, 8], [2, 2, 5, 8], [2, 2, 5, 8]],
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        opset=23,
        label="function",
    ),
    Case(
        "Attention",
        [[2, 2, 5, 8], [2, 2, 5, 8], [2, 2, 5, 8]],
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        {"is_causal": 1},
        opset=23,
        label="causal",
    ),
    Case("MatMul", [[3, 4], [4, 5]], torch.matmul),
    Case("MatMul", [[2, 3, 4], [4, 5]], torch.matmul, label="shared-right"),
    Case("MatMul", [[2, 3, 4, 5], [2, 1, 5, 3]], torch.matmul, label="broadcast"),
    Case("MatMul", [[3, 4], [2, 4, 5]], torch.matmul, label="shared-left"),
    Case("MatMul", [[2, 9, 8], [2, 8, 2]], torch.matmul, label="large-left"),
    Case("MatMul", [[2, 2, 9], [1, 9, 8]], torch.matmul, label="large-right"),
    Case("MatMul", [[4], [4, 5]], torch.matmul, label="row"),
    Case("MatMul", [[2, 3, 4], [4]], torch.matmul, label="column"),
    *[
        Case(
            "Gemm",
            [[4, 3] if ta else [3, 4], [5, 4] if tb else [4, 5], [5]],
            lambda a, b, c, ta=ta, tb=tb: 0.5 * (a.T if ta else a) @ (b.T if tb else b) + 2 * c,
            {"transA": ta, "transB": tb, "alpha": 0.5, "beta": 2.0},
            label=f"{ta}{tb}",
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ],
    Case("Gemm", [[3, 4], [4, 5], [3, 1]], lambda a, b, c: a @ b + c, label="column-bias"),
    conv_case("wide", (2, 3, 17, 16), (4, 3, 3, 3), pads=(1, 1)),
    conv_case("wide-strided", (2, 3, 33, 32), (4, 3, 5, 3), stride=2, pads=(2, 1)),
    conv_case("wide-dilated", (2, 3, 20, 21), (4, 3, 3, 3), dilation=2, pads=(0, 1)),
    conv_case("3x3", [2, 3, 7, 6], [4, 3, 3, 3], True, pads=(1, 1)),
    conv_case("stride", [2, 3, 8, 7], [4, 3, 3, 3], stride=2, pads=(1, 1)),
    conv_case("1x1", [2, 3, 5, 4], [6, 3, 1, 1], True),
    conv_case("1x1-stride", [2, 3, 5, 4], [6, 3, 1, 1], stride=2),
    conv_case("1x7", [2, 3, 5, 9], [4, 3, 1, 7], pads=(0, 3)),
    conv_case("dilated", [2, 3, 9, 8], [4, 3, 3, 3], dilation=2, pads=(2, 1)),
    conv_case("grouped", [2, 4, 8, 7], [6, 2, 3, 3], group=2, stride=2, pads=(1, 1)),
    conv_case("depthwise", [2, 4, 6, 6], [4, 1, 3, 3], True, group=4, pads=(1, 1)),
    conv_case("unreached", [1, 2, 9, 10], [3, 2, 2, 2], stride=4),
    conv_case("grouped-unreached", [1, 2, 9, 10], [2, 1, 2, 2], stride=4, group=2),
    Case("Conv", [[2, 3, 8, 8], [4, 3, 3, 3]], same_conv, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, label="same"),
    Case("Conv", [[2, 3, 9], [4, 3, 3]], lambda x, w: F.conv1d(x, w, padding=1), {"pads": [1, 1]}, label="1d"),
    Case("Conv", [[1, 2, 4, 5, 4], [3, 2, 2, 3, 2]], F.conv3d, label="3d"),
    Case("ConvTranspose", [[2, 3, 4, 5], [3, 4, 2, 2], [4]], transposed(2), {"strides": [2, 2]}),
    Case(
        "ConvTranspose",
        [[2, 4, 4, 5], [4, 2, 3, 3]],
        transposed(2, 1, 1, 2),
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1], "group": 2},
        label="grouped",
    ),
    Case(
        "MaxPool",
        [[2, 3, 7, 6]],
        lambda x: F.max_pool2d(x, 3, 2, 1),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
    ),
    Case(
        "MaxPool",
        [[2, 3, 6, 6]],
        lambda x: F.max_pool2d(x, 2),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        label="disjoint",
    ),
    Case(
        "MaxPool",
        [[5, 4, 96, 96]],
        lambda x: F.max_pool2d(x, 3, 1, 1),
        {"kernel_shape": [3, 3], "pads": [1] * 4},
        label="two-pieces",
    ),
    Case(
        "MaxPool",
        [[1, 2, 6, 7]],
        lambda x: F.max_pool2d(x, 3, 1, 1),
        {"kernel_shape": [3, 3], "pads": [1] * 4},
        label="stride-1",
    ),
    Case(
        "MaxPool",
        [[1, 2, 6, 7]],
        lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        label="ceil",
    ),
    Case(
        "AveragePool",
        [[2, 3, 6, 4]],
        average(kernel_size=2),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        label="tiles",
    ),
    Case(
        "AveragePool",
        [[2, 3, 6, 5]],
        average(kernel_size=3, stride=1, padding=1, count_include_pad=False),
        {"kernel_shape": [3, 3], "pads": [1] * 4},
    ),
    Case(
        "AveragePool",
        [[2, 3, 8, 7]],
        average(kernel_size=3, stride=2, padding=1, count_include_pad=True),
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": 1},
        label="include-pad",
    ),
    Case(
        "AveragePool",
        [[2, 3, 8, 9]],
        average(kernel_size=3, stride=2, ceil_mode=True, count_include_pad=False),
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        label="ceil",
    ),
    Case(
        "AveragePool",
        [[1, 2, 9, 9]],
        average(kernel_size=2, stride=3),
        {"kernel_shape": [2, 2], "strides": [3, 3]},
        label="gaps",
    ),
    Case("GlobalAveragePool", [[2, 3, 4, 5]], lambda x: x.mean((2, 3), True)),
    Case("GlobalMaxPool", [[2, 3, 4, 5]], lambda x: x.amax((2, 3), True)),
    Case("BatchNormalization", [[2, 3, 4, 5], [3], [3]], batch_norm_frozen, constants=[MEAN, VAR], label="frozen"),
    Case("LayerNormalization", [[2, 3, 8], [8], [8]], lambda x, g, b: F.layer_norm(x, (8,), g, b)),
    Case(
        "LayerNormalization",
        [[2, 3, 4, 2], [4, 2]],
        lambda x, g: F.layer_norm(x, (4, 2), g),
        {"axis": 2},
        label="two-axes",
    ),
    Case("InstanceNormalization", [[2, 3, 4, 5], [3], [3]], lambda x, g, b: F.instance_norm(x, None, None, g, b)),
    Case("LRN", [[2, 7, 3, 4]], lrn, {"size": 5, "alpha": 0.3, "beta": 0.75, "bias": 1.5}),
    Case("Softmax", [[2, 3, 5]], lambda x: x.softmax(1), {"axis": 1}),
    Case("LogSoftmax", [[2, 3, 5]], lambda x: x.log_softmax(-1)),
    Case("ReduceSum", [[2, 3, 4]], lambda x: x.sum(1), {"keepdims": 0}, [i64(1)]),
    Case("ReduceMean", [[2, 3, 4]], lambda x: x.mean((0, 2), True), {}, [i64(0, -1)]),
    Case("ReduceMean", [[2, 3, 4]], lambda x: x.mean(), {"keepdims": 0}, label="all"),
    Case("ReduceMax", [[2, 3, 4]], lambda x: x.amax(2), {"keepdims": 0}, [i64(2)]),
    Case("ReduceMin", [[2, 3, 4]], lambda x: x.amin(0), {"keepdims": 0}, [i64(0)]),
    Case("ReduceL2", [[2, 3, 4]], lambda x: x.norm(dim=1, keepdim=True), {}, [i64(1)]),
    Case("ReduceSumSquare", [[2, 3, 4]], lambda x: (x * x).sum(1), {"keepdims": 0}, [i64(1)]),
    Case("Reshape", [[2, 3, 4]], lambda x: x.reshape(6, 4), {}, [i64(6, -1)]),
    Case("Flatten", [[2, 3, 4]], lambda x: x.reshape(2, 12)),
    Case("Squeeze", [[2, 1, 4]], lambda x: x.squeeze(1), {}, [i64(1)]),
    Case("Unsqueeze", [[2, 4]], lambda x: x.unsqueeze(1), {}, [i64(1)]),
    Case("Transpose", [[2, 3, 4]], lambda x: x.permute(2, 0, 1), {"perm": [2, 0, 1]}),
    Case("Concat", [[2, 3], [2, 4]], lambda *x: torch.cat(x, 1), {"axis": 1}),
    Case("Slice", [[5, 6]], lambda x: x[1:4, 0:6:2], {}, [i64(1, 0), i64(4, 6), i64(0, 1), i64(1, 2)]),
    Case("Slice", [[5, 6]], lambda x: x.flip(1)[:, ::2], {}, [i64(-1), i64(-100), i64(1), i64(-2)], label="negative"),
    Case("Pad", [[3, 4]], lambda x: F.pad(x, (2, 1, 1, 0)), {}, [i64(1, 2, 0, 1)]),
    Case("Pad", [[3, 4]], lambda x: x[1:, :3], {}, [i64(-1, 0, 0, -1)], label="crop"),
    *(
        Case(
            "Pad",
            [[2, 3, 5, 6]],
            lambda x, mode=mode: F.pad(x, (4, 2, 1, 3), mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode)),
            {"mode": mode},
            [i64(0, 0, 1, 4, 0, 0, 3, 2)],
            label=mode,
            opset=19,
        )
        for mode in ("reflect", "edge", "wrap")
    ),
    *(
        Case("Einsum", shapes, lambda *x, e=equation: torch.einsum(e, *x), {"equation": equation}, label=equation)
        for equation, shapes in EINSUMS.items()
    ),
    Case("Expand", [[3, 1]], lambda x: x.expand(2, 3, 4), {}, [i64(2, 3, 4)]),
    Case("Tile", [[3, 4]], lambda x: x.repeat(2, 3), {}, [i64(2, 3)]),
    Case(
        "DepthToSpace", [[2, 12, 2, 3]], lambda x: F.pixel_shuffle(x, 2), {"blocksize": 2, "mode": "CRD"}, label="CRD"
    ),
    Case(
        "DepthToSpace",
        [[2, 12, 2, 3]],
        lambda x: x.reshape(2, 2, 2, 3, 2, 3).permute(0, 3, 4, 1, 5, 2).reshape(2, 3, 4, 6),
        {"blocksize": 2},
    ),
    Case(
        "SpaceToDepth",
        [[2, 3, 4, 6]],
        lambda x: x.reshape(2, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(2, 12, 2, 3),
        {"blocksize": 2},
    ),
    Case("Trilu", [[4, 5]], torch.tril, {"upper": 0}),
    Case("CumSum", [[3, 4]], lambda x: x.cumsum(1), {}, [np.int64(1)]),
    Case("Gather", [[5, 4]], lambda t: t[torch.from_numpy(IDS)], {}, [IDS]),
    Case("Gather", [[3, 5, 2]], lambda t: t[:, torch.from_numpy(IDS)], {"axis": 1}, [IDS], label="axis-1"),
    Case("GatherElements", [[5, 3]], lambda t: t.gather(0, torch.from_numpy(IDS)), {"axis": 0}, [IDS]),
    Case(
        "Resize",
        [[1, 2, 3, 4]],
        lambda x: F.interpolate(x, scale_factor=2),
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
        label="nearest",
    ),
    Case(
        "Resize",
        [[1, 2, 3, 4]],
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        {"mode": "linear"},
        [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
        label="bilinear",
    ),
    Case(
        "Resize",
        [[1, 2, 3, 4]],
        lambda x: F.interpolate(x, size=(5, 7), mode="bilinear", align_corners=True),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        [np.zeros(0, np.float32), np.zeros(0, np.float32), i64(1, 2, 5, 7)],
        label="corners",
    ),
    Case(
        "Resize",
        [[1, 2, 5, 6]],
        lambda x: F.interpolate(x, size=(7, 4), mode="bicubic"),
        {"mode": "cubic", "cubic_coeff_a": -0.75},
        [np.zeros(0, np.float32), np.zeros(0, np.float32), i64(1, 2, 7, 4)],
        label="bicubic",
    ),
]


CASES += FURTHER


def drawn(case: Case) -> dict[str, np.ndarray]:
    random = np.random.default_rng(sum(map(ord, case.name)))
    if case.low is None:
        return {f"p{i}": random.standard_normal(s).astype(np.float32) for i, s in enumerate(case.shapes)}
    return {f"p{i}": random.uniform(case.low, case.high, s).astype(np.float32) for i, s in enumerate(case.shapes)}


def loss_of(case: Case, parameters: dict[str, np.ndarray], weights: np.ndarray) -> onnx.ModelProto:
    """sum(op(parameters, constants) * weights) as a model whose parameters are initializers."""
    constants = {f"c{i}": np.asarray(c) for i, c in enumerate(case.constants)}
    names = [*constants, *parameters] if case.constants_first else [*parameters, *constants]
    names = [names[i] for i in case.order] if case.order else names
    inputs = ["" if n in constants and constants[n].size == 0 else n for n in names]
    nodes = [
        helper.make_node(case.op, inputs, list(case.outputs), name="op", **case.attributes),
        helper.make_node("Cast", ["y"], ["y32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["y32", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["total"], keepdims=0),
    ]
    tensors = {**parameters, **constants, "weights": weights}
    graph = helper.make_graph(
        nodes, "case", [], [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items() if a.size],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rule_agrees_with_autograd(case: Case, device: str) -> None:
    """The step's new parameters are the old ones minus torch's gradient, for both devices' operator forms."""
    if device == "cuda" and case.cpu_only:
        pytest.skip("refused on CUDA: products at colliding indices")
    parameters = drawn(case)
    leaves = [torch.from_numpy(a).double().requires_grad_() for a in parameters.values()]
    y = case.torch(*leaves)
    weights = np.random.default_rng(1).standard_normal(tuple(y.shape)).astype(np.float32)
    (y * torch.from_numpy(weights)).sum().backward()

    forward = loss_of(case, parameters, weights)
    step = differentiate(
        forward,
        loss="output",
        optimizer=Optimizer("sgd", learning_rate=1.0),
        device=device,
        parameters=list(parameters),
    )
    onnx.checker.check_model(step, full_check=True)
    results = run_steps(step, {})[0]
    expected_loss = float((y.detach() * torch.from_numpy(weights)).sum())
    assert float(results["total"]) == pytest.approx(expected_loss, rel=1e-4, abs=1e-4)
    for leaf, (name, before) in zip(leaves, parameters.items(), strict=True):
        if f"{name}.next" not in results and not leaf.grad.any():
            continue  # nothing flows back, so that the parameter is not trained
        expected = before - leaf.grad.numpy()
        scale = max(np.abs(leaf.grad.numpy()).max(), np.abs(before).max())
        assert np.abs(results[f"{name}.next"] - expected).max() <= TOLERANCE * scale, name


@pytest.mark.parametrize("width", [1, 2])
def test_attention_sums_over_what_is_narrow(width: int) -> None:
    """softmax(x) v: where v has fewer columns than x, no product of x's size is summed."""
    size = 5
    random = np.random.default_rng(0)
    x, v, weights = (random.standard_normal((3, size, n)).astype(np.float32) for n in (size, width, width))
    leaves = [torch.from_numpy(a).double().requires_grad_() for a in (x, v)]
    (torch.softmax(leaves[0], -1) @ leaves[1] * torch.from_numpy(weights)).sum().backward()
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="product"),
        helper.make_node("Mul", ["y", "weights"], ["weighted"], name="mul"),
        helper.make_node("ReduceSum", ["weighted"], ["total"], name="sum", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "attention", [], [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in (("x", x), ("v", v), ("weights", weights))],
    )  # fmt: skip
    forward = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    step = differentiate(forward, loss="output", optimizer=Optimizer("sgd", learning_rate=1.0), parameters=["x", "v"])
    results = run_steps(step, {})[0]
    for leaf, name, before in zip(leaves, "xv", (x, v), strict=True):
        assert np.abs(results[f"{name}.next"] - (before - leaf.grad.numpy())).max() <= TOLERANCE
    shapes = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in step.graph.value_info}
    summed = [shapes[n.input[0]][-1] for n in step.graph.node if n.op_type == "ReduceSum" and n.input[0] in shapes]
    assert (width if width == 1 else size) in summed


def test_every_rule_has_a_case() -> None:
    """A rule without a case above cannot go unnoticed; Split and the embedding have their own tests."""
    assert set(GRADIENTS) - {case.op for case in CASES} - MODEL_ONLY == {"Split"}
