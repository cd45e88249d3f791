"""Attention of planc's own: its function against torch in float64, its CUDA C, run on the host, against its function;
and which forward models it is found in."""

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support import host_cuda
from support.own_calls import by_function, call_for, empty_like
from support.training_steps import random_batch, run_steps
from support.zoo_networks import small_forward

from planc.kernels import TensorType
from planc.kernels.attention import ATTENTION, ATTENTION_GRADIENT
from planc.kernels.device import CudnnKernel, SourceKernel
from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer

needs_compiler = pytest.mark.skipif(host_cuda.why_not() is not None, reason=str(host_cuda.why_not()))
RNG = np.random.default_rng(0)
TF32 = 3e-3
"""Products of numbers rounded to eleven bits, relative to the largest result."""

CASES = [
    # B, H, G, S, T, D, causal, bias shape, heads last
    (1, 2, 1, 70, 90, 16, 0, None, 0),
    (1, 2, 2, 130, 130, 8, 1, (1, 2, 1, 130), 1),
    (2, 4, 2, 1, 3, 8, 0, (2, 1, 1, 3), 0),
    (1, 1, 1, 1, 1, 8, 1, None, 1),
]


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_and_its_kernels_are_torchs(case: tuple[Any, ...]) -> None:
    shape = case[7]
    _compare(case, [] if shape is None else [RNG.standard_normal(shape).astype(np.float32)])


@needs_compiler
@pytest.mark.parametrize("causal", [0, 1])
def test_queries_whose_keys_are_hidden_by_finite_numbers_see_all_alike(causal: int) -> None:
    """Beside the lowest number a score vanishes: every key that is not hidden otherwise has the same share, as torch's."""
    bias = RNG.standard_normal((1, 1, 70, 70)).astype(np.float32)
    bias[..., ::3, :] = np.finfo(np.float32).min
    bias[..., 1::3, 5:] = np.finfo(np.float32).min
    bias[..., 3::9, 40:] = -math.inf
    _compare((1, 2, 2, 70, 70, 16, causal, bias.shape, 0), [bias])


def _compare(case: tuple[Any, ...], bias: list[Any]) -> None:
    """Results and gradients: of torch in float64, of the function, and of the kernels."""
    b, h, g, s, t, d, causal, _, heads_last = case
    q, k, v, dy = (
        RNG.standard_normal(x).astype(np.float32) for x in ((b, h, s, d), (b, g, t, d), (b, g, t, d), (b, h, s, d))
    )
    y, grads = _torch(q, k, v, dy, bias, causal)

    def turn(a: Any) -> Any:
        return np.ascontiguousarray(a.transpose(0, 2, 1, 3)) if heads_last else a

    settings: dict[str, Any] = {"scale": d**-0.5, "causal": causal, "heads_last": heads_last}
    arrays = [*map(turn, (q, k, v)), *bias]
    forward = call_for(ATTENTION, arrays, **settings)
    made = by_function(forward, arrays)
    assert np.allclose(made[0], turn(y), atol=1e-5)
    _by_kernel(forward, arrays, made)
    arrays = [turn(dy), *arrays[:3], *made, *bias]
    gradient = call_for(ATTENTION_GRADIENT, arrays, **settings)
    found = by_function(gradient, arrays)
    for a, wanted in zip(found, grads, strict=True):
        assert np.allclose(a, turn(wanted), atol=2e-5)
    _by_kernel(gradient, arrays, found)


def _torch(q: Any, k: Any, v: Any, dy: Any, bias: list[Any], causal: int) -> tuple[Any, list[Any]]:
    operands = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (q, k, v)]
    keys, values = (a.repeat_interleave(q.shape[1] // k.shape[1], 1) for a in operands[1:])
    scores = operands[0] @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])
    for extra in bias:
        scores = scores + torch.tensor(extra.astype(np.float64))
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    y = torch.softmax(scores, -1) @ values
    y.backward(torch.tensor(dy.astype(np.float64)))
    return y.detach().numpy(), [a.grad.numpy() for a in operands]  # type: ignore[union-attr]


def _by_kernel(call: Any, arrays: list[Any], wanted: list[Any]) -> None:
    kernel, outputs = call.operator.cuda(call), empty_like(call)
    assert isinstance(kernel, SourceKernel)
    host_cuda.run(kernel, arrays, outputs)
    for found, expected in zip(outputs, wanted, strict=True):
        assert np.abs(found - expected).max() <= TF32 * max(1.0, float(np.abs(expected).max()))


@needs_compiler
def test_kernels_hide_keys_and_pass_on_what_is_not_a_number() -> None:
    """Keys under minus infinity or the lowest number, a whole tile of them too, and a query that is not a number."""
    q, k, v, dy = (RNG.standard_normal((1, 2, n, 8)).astype(np.float32) for n in (5, 90, 90, 5))
    bias = np.zeros((1, 1, 5, 90), np.float32)
    bias[..., 1, 3:], bias[..., 2, :70], bias[..., 3, ::2] = -np.inf, -np.inf, np.finfo(np.float32).min
    q[0, 1, 4] = np.nan
    forward = call_for(ATTENTION, [q, k, v, bias], scale=0.5)
    made = by_function(forward, [q, k, v, bias])
    assert np.isnan(made[0]).any(-1).sum() == 1
    arrays = [dy, q, k, v, *made, bias]
    gradient = call_for(ATTENTION_GRADIENT, arrays, scale=0.5)
    for call, given, wanted in ((forward, [q, k, v, bias], made), (gradient, arrays, by_function(gradient, arrays))):
        outputs = empty_like(call)
        host_cuda.run(call.operator.cuda(call), given, outputs)
        for found, expected in zip(outputs, wanted, strict=True):
            assert np.array_equal(np.isnan(found), np.isnan(expected))
            assert np.nanmax(np.abs(found - expected)) <= TF32 * max(1.0, float(np.nanmax(np.abs(expected))))


def test_half_precision_asks_cudnn_and_odd_heads_nobody() -> None:
    for dtype, size, kind in ((TensorProto.BFLOAT16, 64, CudnnKernel), (TensorProto.FLOAT, 12, type(None))):
        call = ATTENTION.call([TensorType(dtype, (1, 2, 8, size))] * 3)
        assert isinstance(call.operator.cuda(call) if call.operator.cuda else None, kind)


@pytest.mark.parametrize("name", ["gpt2", "vit_b16"])
def test_networks_train_the_same_with_attention_found(name: str) -> None:
    built = small_forward(name)
    found = []
    for device in ("cpu", "cuda"):
        step = differentiate(built.model, loss=built.loss, optimizer=Optimizer("sgd"), device=device)
        count = sum(node.op_type.startswith("AttentionGradient") for node in step.graph.node)
        assert count == (2 if device == "cuda" else 0)
        found.append(run_steps(step, random_batch(step))[0])
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert np.allclose(value, found[1][key], atol=2e-5), key


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_attention_of_onnx_trains_like_its_function(mask: str | None) -> None:
    """Heads side by side in three axes, as opset 23 has it."""
    weight = numpy_helper.from_array(RNG.standard_normal((16, 16)).astype(np.float32), "w")
    seen = np.tri(5, 5, 1, bool) if mask == "bool" else RNG.standard_normal((5, 5)).astype(np.float32)
    operands, fixed = ["q", "q", "x", *(["mask"] if mask else [])], [numpy_helper.from_array(seen, "mask")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], "project"),
        helper.make_node(
            "Attention", operands, ["y"], "attend", q_num_heads=2, kv_num_heads=2, is_causal=int(not mask)
        ),
        helper.make_node("ReduceMean", ["y"], ["loss"], "mean", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 5, 16])],
        [helper.make_tensor_value_info("loss", 1, [])],
        [weight, *(fixed if mask else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model)
    steps = [differentiate(model, loss="output", optimizer=Optimizer("sgd"), device=d) for d in ("cpu", "cuda")]
    assert any(node.op_type.startswith("AttentionGradient") for node in steps[1].graph.node)
    one, other = (run_steps(step, random_batch(step))[0] for step in steps)
    assert all(np.allclose(one[key], other[key], atol=1e-5) for key in one)
