"""Attention that a forward model writes out: one operator in the forms for a card, with torch's loss and gradients; and
what is left as it is written."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps

from planc.training import Optimizer, differentiate
from planc.training.layout.calls import is_call

BATCH, HEADS, LENGTH, OTHER, WIDTH, IN = 2, 4, 6, 9, 8, 5
LOWEST = float(np.finfo(np.float32).min)
LATER = np.triu(np.ones((LENGTH, OTHER), bool), 1)
RNG = np.random.default_rng(3)
SEEN = RNG.random((BATCH, 1, LENGTH, OTHER)) > 0.4
SEEN[..., 0] = True
SLOPES = RNG.standard_normal((1, HEADS, 1, OTHER)).astype(np.float32)
EMPTY = np.where(np.arange(LENGTH) == 2, LOWEST, 0).astype(np.float32).reshape(LENGTH, 1) * np.ones(
    (1, OTHER), np.float32
)

Torch = Callable[[Any, Any, Any], Any]


def softmax(q: Any, k: Any, v: Any, mask: Any = 0.0, scale: float = 1.0) -> Any:
    return torch.softmax(q @ k.mT * scale + mask, -1) @ v


def hidden(where: Any) -> Any:
    return torch.where(torch.tensor(where), -math.inf, 0.0).double()


def nodes(text: str) -> list[onnx.NodeProto]:
    """A node a line: output = Operator(inputs), attributes behind a bar."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        call, _, given = line.partition("|")
        output, _, right = call.partition("=")
        op_type, _, inputs = right.strip().rstrip(" )").partition("(")
        names = [name.strip() for name in inputs.split(",")]
        settings = eval(f"dict({given})")
        found.append(helper.make_node(op_type, names, [output.strip()], output.strip(), **settings))
    return found


K_T = "kt = Transpose(k) | perm=[0, 1, 3, 2]\n"
END = "y = MatMul(p, v)"
WRITTEN: dict[str, tuple[str, Torch]] = {
    "plain": (f"{K_T} s = MatMul(q, kt)\n p = Softmax(s) | axis=3\n {END}", softmax),
    "scaled before": (
        "q1 = Mul(q, c)\n k1 = Mul(k, c)\n kt = Transpose(k1) | perm=[0, 1, 3, 2]\n s = MatMul(q1, kt)\n"
        f"p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, scale=0.25),
    ),
    "scaled behind the transpose": (
        f"q1 = Mul(c, q)\n {K_T} k1 = Mul(kt, c)\n s = MatMul(q1, k1)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, scale=0.25),
    ),
    "scaled after": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Div(s0, c)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, scale=2.0),
    ),
    "added mask": (
        f"{K_T} s0 = MatMul(q, kt)\n s1 = Mul(s0, c)\n s = Add(slopes, s1)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, torch.tensor(SLOPES), 0.5),
    ),
    "scaled and masked": (
        f"{K_T} s0 = MatMul(q, kt)\n s1 = Add(s0, slopes)\n s2 = Where(seen, s1, lowest)\n s = Mul(s2, c)\n"
        f"p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, torch.tensor(SLOPES) * 0.5 + hidden(~SEEN), 0.5),
    ),
    "filled": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Where(seen, s0, lowest)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, hidden(~SEEN)),
    ),
    "causal": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Where(later, infinite, s0)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, hidden(LATER)),
    ),
    "casts": (
        f"{K_T} s0 = MatMul(q, kt)\n s1 = Cast(s0) | to=1\n s = Mul(s1, c)\n p0 = Softmax(s)\n p = Cast(p0) | to=1\n {END}",
        lambda q, k, v: softmax(q, k, v, scale=0.5),
    ),
    "turned together": (
        "k0 = Transpose(k) | perm=[0, 2, 1, 3]\n k1 = Mul(k0, slopes_of_width)\n kt = Transpose(k1) | perm=[0, 2, 3, 1]\n"
        f"s = MatMul(q, kt)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k * torch.arange(1, WIDTH + 1) / WIDTH, v),
    ),
}
SHARED = "a{0} = Unsqueeze({0}, two)\n b{0} = Expand(a{0}, wide)\n c{0} = Reshape(b{0}, whole)\n"
GROUPED = (
    SHARED.format("k") + SHARED.format("v")
    + "kt = Transpose(ck) | perm=[0, 1, 3, 2]\n s = MatMul(q, kt)\n p = Softmax(s)\n y = MatMul(p, cv)",
    lambda q, k, v: softmax(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)),
)  # fmt: skip
PLAIN = f"{K_T} s = MatMul(q, kt)\n p = Softmax(s)\n y0 = MatMul(p, v)\n"
COMPUTED = {
    "visible": "m = Greater(mask, zero)\n s = Where(m, s0, lowest)",
    "hidden": "m = Equal(mask, zero)\n s = Where(m, lowest, s0)",
}
ADDED = {
    "lowest": "m = Greater(mask, zero)\n a = Where(m, zero, lowest)\n s = Add(s0, a)",
    "counted": "i = Cast(mask) | to=7\n f = Cast(i) | to=1\n r = Sub(one, f)\n a = Mul(r, lowest)\n s = Add(a, s0)",
}
LEFT: dict[str, tuple[str, Torch]] = {
    "probabilities read elsewhere": (
        f"{PLAIN} m = ReduceMean(p) | keepdims=1\n y = Add(y0, m)",
        lambda q, k, v: softmax(q, k, v) + torch.softmax(q @ k.mT, -1).mean(),
    ),
    "scores read elsewhere": (
        f"{PLAIN} m = ReduceMean(s) | keepdims=1\n y = Add(y0, m)", lambda q, k, v: softmax(q, k, v) + (q @ k.mT).mean()
    ),
    "another axis": (
        f"{K_T} s = MatMul(q, kt)\n p = Softmax(s) | axis=2\n {END}", lambda q, k, v: torch.softmax(q @ k.mT, 2) @ v
    ),
    "a query without keys": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Add(s0, empty)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, torch.tensor(EMPTY)),
    ),
    "a fill that does not hide": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Where(seen, s0, c)\n p = Softmax(s)\n {END}",
        lambda q, k, v: torch.softmax(torch.where(torch.tensor(SEEN), q @ k.mT, 0.5), -1) @ v,
    ),
    "minus infinity where the step computes so": (
        f"{K_T} s0 = MatMul(q, kt)\n m = Greater(mask, zero)\n s = Where(m, s0, infinite)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, hidden(~SEEN)),
    ),
    "a computed mask": (
        f"{K_T} s0 = MatMul(q, kt)\n m = ReduceMax(s0) | keepdims=1\n n = Mul(m, slopes)\n s1 = MatMul(q, kt)\n"
        f"s = Add(s1, n)\n p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, (q @ k.mT).amax() * torch.tensor(SLOPES)),
    ),
    "numbers that float32 tells from scores, where the step computes so": (
        f"{K_T} s0 = MatMul(q, kt)\n m = Greater(mask, zero)\n a = Where(m, zero, far)\n s = Add(s0, a)\n"
        f"p = Softmax(s)\n {END}",
        lambda q, k, v: softmax(q, k, v, hidden(~SEEN)),
    ),
    "a factor for each key": (
        f"{K_T} s0 = MatMul(q, kt)\n s = Mul(s0, slopes)\n p = Softmax(s)\n {END}",
        lambda q, k, v: torch.softmax(q @ k.mT * torch.tensor(SLOPES), -1) @ v,
    ),
}  # fmt: skip


def _arrays(groups: int) -> dict[str, Any]:
    weights = {
        f"w{n}": RNG.standard_normal((IN, heads * WIDTH)).astype(np.float32) / 2
        for n, heads in (("q", HEADS), ("k", groups), ("v", groups))
    }
    return weights | {
        "c": np.float32(0.5), "slopes": SLOPES, "seen": SEEN, "later": LATER, "lowest": np.float32(LOWEST), "empty": EMPTY,
        "infinite": np.float32(-np.inf), "zero": np.float32(0), "one": np.float32(1), "far": np.float32(-1e9),
        "two": np.array([2]), "wide": np.array([BATCH, groups, 2, OTHER, WIDTH]),
        "whole": np.array([BATCH, HEADS, OTHER, WIDTH]),
        "slopes_of_width": (np.arange(1, WIDTH + 1) / WIDTH).astype(np.float32),
    }  # fmt: skip


def _forward(text: str, arrays: dict[str, Any]) -> onnx.ModelProto:
    """The mean of the squares of an attention of projections of x and z, its heads put behind the places."""
    body = []
    for name, source, length in (("q", "x", LENGTH), ("k", "z", OTHER), ("v", "z", OTHER)):
        heads = arrays[f"w{name}"].shape[1] // WIDTH
        arrays[f"{name}.shape"] = np.array([BATCH, length, heads, WIDTH])
        body += [
            helper.make_node("MatMul", [source, f"w{name}"], [f"{name}.flat"], f"{name}.flat"),
            helper.make_node("Reshape", [f"{name}.flat", f"{name}.shape"], [f"{name}.heads"], f"{name}.heads"),
            helper.make_node("Transpose", [f"{name}.heads"], [name], name, perm=[0, 2, 1, 3]),
        ]
    body += [
        *nodes(text), helper.make_node("Mul", ["y", "y"], ["squares"], "squares"),
        helper.make_node("ReduceMean", ["squares"], ["loss"], "loss", keepdims=0),
    ]  # fmt: skip
    read = {name for node in body for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items() if n in read]
    infos = [helper.make_tensor_value_info(n, 1, [BATCH, size, IN]) for n, size in (("x", LENGTH), ("z", OTHER))]
    if "mask" in read:
        infos.append(helper.make_tensor_value_info("mask", 1, list(SEEN.shape)))
    graph = helper.make_graph(body, "g", infos, [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _compared(text: str, meaning: Torch, groups: int = HEADS, mask: Any = SEEN) -> onnx.ModelProto:
    """The step for a card, whose loss and updates are those of torch in float64."""
    arrays = _arrays(groups)
    step = differentiate(
        _forward(text, arrays),
        loss="output",
        optimizer=Optimizer("sgd", 1.0),
        parameters=["wq", "wk", "wv"],
        device="cuda",
    )
    assert violations(step) == []
    x, z = (RNG.standard_normal((BATCH, size, IN)).astype(np.float32) for size in (LENGTH, OTHER))
    feeds = {"x": x, "z": z, "mask": mask.astype(np.float32)}
    result = run_steps(step, {i.name: feeds[i.name] for i in step.graph.input if i.name in feeds})[0]
    weights = {n: torch.tensor(arrays[n], dtype=torch.float64, requires_grad=True) for n in ("wq", "wk", "wv")}
    operands = [
        (torch.tensor(a).double() @ w).view(BATCH, a.shape[1], -1, WIDTH).transpose(1, 2)
        for a, w in zip((x, z, z), weights.values(), strict=True)
    ]
    loss = meaning(*operands).square().mean()
    loss.backward()
    np.testing.assert_allclose(result["loss"], loss.item(), rtol=1e-5)
    for name, weight in weights.items():
        assert weight.grad is not None
        np.testing.assert_allclose(result[f"{name}.next"], (weight - weight.grad).detach(), rtol=1e-4, atol=1e-5)
    return step


def _operators(step: onnx.ModelProto) -> list[int]:
    return [sum(is_call(node, name) for node in step.graph.node) for name in ("Attention", "AttentionGradient")]


@pytest.mark.parametrize("name", WRITTEN)
def test_written_out_attention_is_one_operator(name: str) -> None:
    step = _compared(*WRITTEN[name])
    assert _operators(step) == [1, 1]
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in step.graph.value_info}
    assert not [n for n, shape in sizes.items() if math.prod(shape) == BATCH * HEADS * LENGTH * OTHER]


def test_a_causal_mask_is_the_operators_own() -> None:
    step = _compared(*WRITTEN["causal"])
    assert [len(node.input) for node in step.graph.node if is_call(node, "Attention")] == [3]


def _under_a_mask(written: str, turned: bool, seen: Any, meaning: Torch) -> onnx.ModelProto:
    """The step of `written` scores, the heads behind the places if `turned`."""
    keys = "kt = Transpose(k.heads) | perm=[0, 2, 3, 1]\n" if turned else K_T
    text = f"{keys} s0 = MatMul(q, kt)\n {written}\n p = Softmax(s)\n "
    text += "y0 = MatMul(p, v)\n y = Transpose(y0) | perm=[0, 2, 1, 3]" if turned else END
    return _compared(text, meaning, mask=seen)


def _hiding_all() -> Any:
    """A mask under which a query sees no key."""
    seen = SEEN.copy()
    seen[1, 0, 2] = False
    return seen


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", COMPUTED)
def test_a_mask_that_the_step_computes_is_filled_in_also_where_it_hides_all(name: str, turned: bool) -> None:
    seen = _hiding_all()

    def meaning(q: Any, k: Any, v: Any) -> Any:
        scores = torch.where(torch.tensor(seen), q @ k.mT, LOWEST)
        return torch.softmax(scores, -1) @ v

    step = _under_a_mask(COMPUTED[name], turned, seen, meaning)
    assert _operators(step) == [1, 1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ADDED)
def test_lowest_numbers_that_the_step_adds_are_a_bias_also_where_they_hide_all(name: str, turned: bool) -> None:
    seen = _hiding_all()

    def meaning(q: Any, k: Any, v: Any) -> Any:
        return softmax(q, k, v, torch.where(torch.tensor(seen), 0.0, LOWEST).double())

    step = _under_a_mask(ADDED[name], turned, seen, meaning)
    assert _operators(step) == [1, 1]


def test_repeated_heads_are_read_as_they_were_before() -> None:
    step = _compared(*GROUPED, groups=HEADS // 2)
    assert _operators(step) == [1, 1]
    assert [v.name for v in step.graph.value_info if len(v.type.tensor_type.shape.dim) > 4] == []


@pytest.mark.parametrize("name", LEFT)
def test_what_only_looks_like_it_stays_as_it_is_written(name: str) -> None:
    assert _operators(_compared(*LEFT[name])) == [0, 0]
