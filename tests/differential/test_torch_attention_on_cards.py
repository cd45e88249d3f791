"""scaled_dot_product_attention of a traced module in the forms for a card: one operator and its gradient."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.training_contract import violations
from support.training_steps import run_steps

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import planc.torch
from planc.kernels import DOMAIN
from planc.training import Optimizer

BATCH, LENGTH, OTHER, HEADS, WIDTH = 2, 6, 9, 4, 8

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Model(nn.Module):
    """Projections to queries, and keys and values in `groups` heads, of two sequences, around an attention."""

    def __init__(self, attend: Attend, groups: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.groups = attend, groups
        self.q, self.k, self.v = (nn.Linear(12, n * WIDTH, bias=False) for n in (HEADS, groups, groups))
        self.out = nn.Linear(HEADS * WIDTH, 5)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        q, k, v = (
            layer(a).view(*a.shape[:2], -1, WIDTH).transpose(1, 2)
            for layer, a in ((self.q, x), (self.k, other), (self.v, other))
        )
        made: Tensor = self.out(self.attend(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1))
        return made


GENERATOR = torch.Generator().manual_seed(2)
SEEN = torch.rand(BATCH, 1, LENGTH, OTHER, generator=GENERATOR) > 0.4
SEEN[0, 0, 1] = False  # this query sees no key
PADDED = (torch.arange(OTHER) < OTHER - 2).expand(BATCH, 1, 1, OTHER)
ADDED = torch.randn(1, HEADS, LENGTH, OTHER, generator=GENERATOR).masked_fill(torch.arange(OTHER) > 5, -math.inf)

CASES: dict[str, tuple[Attend, int]] = {
    "cross": (F.scaled_dot_product_attention, HEADS),
    "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), HEADS),
    "scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), HEADS),
    "boolean mask": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, SEEN), HEADS),
    "added mask": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, ADDED.to(q.dtype)), HEADS),
    "padding": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, PADDED), HEADS),
    "grouped": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 2),
    "grouped causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 1),
}


def _own(step: onnx.ModelProto) -> list[str]:
    return [n.op_type.rpartition("_")[0] for n in step.graph.node if n.domain == DOMAIN]


def _feeds(step: onnx.ModelProto, batch: tuple[Tensor, ...]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    held = {t.name for t in step.graph.initializer}
    names = [i.name for i in step.graph.input if i.name not in held]
    return dict(zip(names, (t.numpy() for t in batch), strict=False))


@pytest.mark.parametrize("name", CASES)
def test_attention_is_one_operator_with_torchs_gradient(name: str) -> None:
    attend, groups = CASES[name]
    model, generator = Model(attend, groups), torch.Generator().manual_seed(1)
    x, other = (torch.randn(BATCH, n, 12, generator=generator) for n in (LENGTH, OTHER))
    y = torch.randn(BATCH, LENGTH, 5, generator=generator)
    step = planc.torch.export_training_step(model, nn.MSELoss(), ((x, other), y), Optimizer("sgd", 1.0), device="cuda")
    assert violations(step) == []
    assert [n for n in _own(step) if n.startswith("Attention")] == ["Attention", "AttentionGradient"]
    assert not [n for n in step.graph.node if n.op_type == "Softmax"]
    result = run_steps(step, _feeds(step, (x, other, y)))[0]
    exact = model.double()
    nn.MSELoss()(exact(x.double(), other.double()), y.double()).backward()
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{name}.next"], wanted, rtol=1e-4, atol=1e-5)


def test_what_the_kernels_do_not_take_is_in_plain_products() -> None:
    cases: list[Attend] = [
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, v.mean((0, 1, 3)).expand(LENGTH, OTHER)),
        lambda q, k, v: F.scaled_dot_product_attention(q[..., :7], k[..., :7], v[..., :7]).repeat(1, 1, 1, 2)[..., :8],
    ]
    batch = (torch.randn(BATCH, LENGTH, 12), torch.randn(BATCH, OTHER, 12)), torch.randn(BATCH, LENGTH, 5)
    for attend in cases:
        model = Model(attend, HEADS)
        step = planc.torch.export_training_step(model, nn.MSELoss(), batch, Optimizer("sgd", 1.0), device="cuda")
        assert not [n for n in _own(step) if n.startswith("Attention")]
        assert [n for n in step.graph.node if n.op_type == "Softmax"]


def test_half_precision_under_autocast_is_one_operator() -> None:
    model = Model(CASES["padding"][0], HEADS)
    batch = (torch.randn(BATCH, LENGTH, 12), torch.randn(BATCH, OTHER, 12)), torch.randn(BATCH, LENGTH, 5)
    step = planc.torch.export_training_step(
        model, nn.MSELoss(), batch, Optimizer("sgd", 1.0), device="cuda", autocast=torch.bfloat16
    )
    node = next(n for n in step.graph.node if n.op_type.startswith("Attention_"))
    types = {v.name: v.type.tensor_type.elem_type for v in step.graph.value_info}
    assert {types[name] for name in node.input[:3]} == {onnx.TensorProto.BFLOAT16}
    assert violations(step) == []
