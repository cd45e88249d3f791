"""Attention that a traced module writes out itself: one operator in the forms for a card, with torch's gradients; and what
is left as it is written."""

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

import planc
import planc.torch
from planc.kernels import DOMAIN
from planc.training import Optimizer

BATCH, LENGTH, OTHER, HEADS, WIDTH = 2, 6, 9, 4, 8
LOWEST = torch.finfo(torch.float32).min

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Model(nn.Module):
    """Queries of one sequence, keys and values in `groups` heads of another, and a mask [B, 1, 1 or S, T]."""

    def __init__(self, attend: Attend, groups: int = HEADS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend = attend
        self.q, self.k, self.v = (nn.Linear(12, n * WIDTH) for n in (HEADS, groups, groups))
        self.out = nn.Linear(HEADS * WIDTH, 5)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(a).view(*a.shape[:2], -1, WIDTH).transpose(1, 2)
            for layer, a in ((self.q, x), (self.k, other), (self.v, other))
        )
        made: Tensor = self.out(self.attend(q, k, v, mask).transpose(1, 2).reshape(*x.shape[:2], -1))
        return made


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(WIDTH)


def earlier(s: Tensor) -> Tensor:
    return torch.ones(s.shape[-2:], dtype=torch.bool).tril()


def merged(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As BART has it: heads join the batch, and part for the mask."""
    q, k, v = (t.reshape(BATCH * HEADS, -1, WIDTH) for t in (q * WIDTH**-0.5, k, v))
    s = torch.bmm(q, k.transpose(1, 2)).view(BATCH, HEADS, LENGTH, OTHER)
    s = s + torch.zeros(BATCH, 1, LENGTH, OTHER).masked_fill(~mask, -math.inf)
    p = F.softmax(s.view(BATCH * HEADS, LENGTH, OTHER), dim=-1)
    return torch.bmm(p, v).view(BATCH, HEADS, LENGTH, WIDTH)


def by_letters(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    p = (torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3).softmax(3)
    return torch.einsum("bhqk,bkhd->bqhd", p, v).transpose(1, 2)


def repeated(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
    """As Llama has it."""
    k, v = (
        t[:, :, None].expand(BATCH, 2, HEADS // 2, OTHER, WIDTH).reshape(BATCH, HEADS, OTHER, WIDTH) for t in (k, v)
    )
    return F.softmax(scores(q, k), -1, dtype=torch.float32).to(q.dtype) @ v


def in_place(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    s = torch.matmul(q, k.mT)
    s /= 3.0
    s.masked_fill_(~mask, -math.inf)
    return torch.matmul(torch.nn.functional.dropout(s.softmax(-1), 0.5, training=False), v)


WRITTEN: dict[str, Attend] = {
    "plain": lambda q, k, v, _: (q @ k.transpose(-2, -1)).softmax(-1) @ v,
    "scaled before": lambda q, k, v, _: F.softmax((q * 0.5) @ (k * 0.6).transpose(2, 3), 3) @ v,
    "scaled after": lambda q, k, v, _: torch.matmul(F.softmax(scores(q, k) * 1.3, dim=-1), v),
    "divided by a tensor": lambda q, k, v, _: F.softmax(q @ k.mT / torch.full([], 2.5), -1) @ v,
    "added mask": lambda q, k, v, m: (scores(q, k) + torch.where(m, 0.0, -math.inf)).softmax(-1) @ v,
    "added constant": lambda q, k, v, _: (
        (scores(q, k) + (1.0 - earlier(scores(q, k)).float()) * LOWEST).softmax(-1) @ v
    ),
    "added slopes": lambda q, k, v, _: (
        (scores(q, k) - 0.1 * torch.arange(OTHER)).masked_fill(~earlier(scores(q, k)), LOWEST).softmax(-1) @ v
    ),
    "added lowest": lambda q, k, v, m: (scores(q, k) + torch.where(m, 0.0, LOWEST)).softmax(-1) @ v,
    "added truths": lambda q, k, v, m: (scores(q, k) + (1.0 - m.float()) * LOWEST).softmax(-1) @ v,
    "added numbers": lambda q, k, v, m: (scores(q, k) + (1.0 - m.float()) * -1e4).softmax(-1) @ v,
    "added far numbers": lambda q, k, v, m: (scores(q, k) + (1.0 - m.float()) * -1e9).softmax(-1) @ v,
    "added beyond": lambda q, k, v, m: (scores(q, k) + (1.0 - m.float()) * -1e20).softmax(-1) @ v,
    "added integers": lambda q, k, v, m: (scores(q, k) + (1 - m.long()) * LOWEST).softmax(-1) @ v,
    "padding": lambda q, k, v, m: (scores(q, k) + (1 - m[:, :, 2:3].long()) * LOWEST).softmax(-1) @ v,
    "added twice": lambda q, k, v, m: (
        (scores(q, k) + (1.0 - m.float()) * -1e4 + torch.where(m, 0.5, -1e4)).softmax(-1) @ v
    ),
    "scaled, lowest": lambda q, k, v, m: F.scaled_dot_product_attention(
        q, k, v, torch.where(m, 0.0, LOWEST).to(q.dtype)
    ),
    "scaled, numbers": lambda q, k, v, m: F.scaled_dot_product_attention(
        q, k, v, ((1.0 - m.float()) * -1e9).to(q.dtype)
    ),
    "filled": lambda q, k, v, m: scores(q, k).masked_fill(m == 0, -math.inf).softmax(-1) @ v,
    "filled lowest": lambda q, k, v, m: torch.where(m, scores(q, k), torch.full([], LOWEST)).softmax(-1) @ v,
    "scaled behind": lambda q, k, v, m: (2 * scores(q, k).masked_fill(~m, -1e9)).softmax(-1) @ v,
    "causal": lambda q, k, v, _: torch.where(earlier(s := scores(q, k)), s, -1e9).softmax(-1) @ v,
    "in place": in_place,
    "merged": merged,
    "by letters": by_letters,
    "grouped": repeated,
}


def _own(step: onnx.ModelProto) -> list[str]:
    found = [n.op_type.rpartition("_")[0] for n in step.graph.node if n.domain == DOMAIN]
    return [name for name in found if name.startswith("Attention")]


def _matrices(step: onnx.ModelProto) -> list[str]:
    """Tensors of the size of the probabilities, in whatever grouping of their axes."""
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in step.graph.value_info}
    return [name for name, shape in sizes.items() if math.prod(shape) == BATCH * HEADS * LENGTH * OTHER]


def _batch(shut: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two sequences, a mask that shuts all keys of the query `shut`, and a target."""
    g = torch.Generator().manual_seed(1)
    x, other = (torch.randn(BATCH, n, 12, generator=g) for n in (LENGTH, OTHER))
    mask = torch.rand(BATCH, 1, LENGTH, OTHER, generator=g) > 0.4
    mask[..., 0] = True
    if shut is not None:
        mask[0, 0, shut] = False
    return x, other, mask, torch.randn(BATCH, LENGTH, 5, generator=g)


def _loss(y: Tensor, target: Tensor) -> Tensor:
    return ((y - target) ** 2).mean()


def _step(model: nn.Module, batch: tuple[Tensor, ...], device: str = "cuda", **named: object) -> onnx.ModelProto:
    step = planc.torch.export_training_step(
        model, _loss, (batch[:-1], batch[-1]), Optimizer("sgd", 1.0), device=device, **named
    )  # type: ignore[arg-type]
    assert violations(step) == []
    return step


def _compare(step: onnx.ModelProto, model: nn.Module, batch: tuple[Tensor, ...]) -> None:
    """Loss and updates against torch in float64."""
    held = {t.name for t in step.graph.initializer}
    names = [i.name for i in step.graph.input if i.name not in held]
    result = run_steps(step, dict(zip(names, (t.numpy() for t in batch), strict=False)))[0]
    exact = model.double()
    batch = tuple(t.double() if t.is_floating_point() else t for t in batch)
    loss = _loss(exact(*batch[:-1]), batch[-1])
    loss.backward()
    np.testing.assert_allclose(result["loss"], loss.item(), rtol=1e-5)
    for name, parameter in exact.named_parameters():
        if parameter.grad is None:
            assert f"{name}.next" not in result
            continue
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{name}.next"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
def test_written_out_attention_is_one_operator_with_torchs_gradient(name: str) -> None:
    model, batch = Model(WRITTEN[name], 2 if name == "grouped" else HEADS), _batch()
    step = _step(model, batch)
    assert _own(step) == ["Attention", "AttentionGradient"]
    assert _matrices(step) == []
    _compare(step, model, batch)


def test_repeated_heads_are_read_as_they_were_before() -> None:
    def interleaved(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(HEADS // 2, dim=1) for t in (k, v))
        return scores(q, k).softmax(-1) @ v

    for attend in (repeated, interleaved):
        model, batch = Model(attend, 2), _batch()
        step = _step(model, batch)
        node = next(n for n in step.graph.node if n.op_type.startswith("Attention_"))
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in step.graph.value_info}
        assert [math.prod(shapes[name]) for name in node.input[1:3]] == [BATCH * 2 * OTHER * WIDTH] * 2
        _compare(step, model, batch)


ADDED = [
    "added lowest",
    "added truths",
    "added numbers",
    "added far numbers",
    "added beyond",
    "added integers",
    "added twice",
]


@pytest.mark.parametrize("name", ["filled lowest", "scaled behind", *ADDED])
def test_a_query_that_sees_no_key_has_the_result_of_the_written_form(name: str) -> None:
    model, batch = Model(WRITTEN[name]), _batch(shut=2)
    step = _step(model, batch)
    assert _own(step) == ["Attention", "AttentionGradient"]
    _compare(step, model, batch)


@pytest.mark.parametrize("name", ["filled", "in place", "added mask", "merged"])
def test_minus_infinity_everywhere_is_not_a_number(name: str) -> None:
    model, batch = Model(WRITTEN[name]), _batch(shut=2)
    step = _step(model, batch)
    assert _own(step) == ["Attention", "AttentionGradient"]
    _compare(step, model, batch)
    held = {t.name for t in step.graph.initializer}
    names = [i.name for i in step.graph.input if i.name not in held]
    assert np.isnan(run_steps(step, dict(zip(names, (t.numpy() for t in batch), strict=False)))[0]["loss"])


def test_a_causal_mask_of_numbers_becomes_the_operators_own() -> None:
    class Causal(Model):
        """As GPT-2 has it: a buffer of all places."""

        def __init__(self) -> None:
            super().__init__(lambda *_: torch.empty(0))
            self.register_buffer("bias", torch.tril(torch.ones(20, 20, dtype=torch.bool)).view(1, 1, 20, 20))
            self.attend = self.attention

        def attention(self, q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
            s = q @ k.transpose(-1, -2) / torch.full([], v.size(-1) ** 0.5, dtype=q.dtype)
            least = torch.full([], torch.finfo(s.dtype).min, dtype=s.dtype)
            s = torch.where(self.bias[:, :, :LENGTH, :OTHER], s.to(s.dtype), least)  # type: ignore[index]
            return F.softmax(s, dim=-1).type(v.dtype) @ v

    for model in (Causal(), Model(WRITTEN["causal"])):
        step = _step(model, batch := _batch())
        node = next(n for n in step.graph.node if n.op_type.startswith("Attention_"))
        assert len(node.input) == 3
        assert not [n for n in step.graph.node if n.op_type in ("Where", "Softmax", "Transpose")]
        assert _matrices(step) == []
        _compare(step, model, batch)


def _kept(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
    p = scores(q, k).softmax(-1)
    return p @ v + p.mean((2, 3), keepdim=True)


def _hooked(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
    p = scores(q, k).softmax(-1)
    p.register_hook(lambda grad: 2 * grad)
    return p @ v


def _without_gradient(q: Tensor, k: Tensor, v: Tensor, _mask: Tensor) -> Tensor:
    with torch.no_grad():
        s = scores(q, k)
    return s.softmax(-1) @ v


def _padded(*shut: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch with a mask of keys, [B, 1, 1, T], of which some samples have none."""
    x, other, mask, y = _batch()
    mask = mask[:, :, :1].clone()
    for sample in shut:
        mask[sample] = False
    return x, other, mask, y


@pytest.mark.parametrize("number", [-1e4, LOWEST, -math.inf], ids=str)
@pytest.mark.parametrize("groups", [2, HEADS])
def test_padding_that_is_added_is_as_in_float32_also_where_all_is_padding(number: float, groups: int) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        k, v = (t.repeat_interleave(HEADS // groups, 1) for t in (k, v))
        added = (1.0 - mask.float()) * number if math.isfinite(number) else torch.where(mask, 0.0, number)
        return (scores(q, k) + added).softmax(-1) @ v

    for batch in (_padded(), _padded(1)):
        model = Model(attend, groups)
        step = _step(model, batch)
        assert _own(step) == ["Attention", "AttentionGradient"]
        assert _matrices(step) == []
        _compare(step, model, batch)


def test_a_block_as_in_bert_is_one_operator() -> None:
    class Block(nn.Module):
        """Post-norm, with an additive mask made of one of integers, as in Hugging Face's eager form."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.query, self.key, self.value, self.output = (nn.Linear(HEADS * WIDTH, HEADS * WIDTH) for _ in range(4))
            self.norm, self.dropout = nn.LayerNorm(HEADS * WIDTH), nn.Dropout(0.0)
            self.inner, self.outer = nn.Linear(12, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, 5)

        def transpose_for_scores(self, x: Tensor) -> Tensor:
            return x.view(*x.size()[:-1], HEADS, WIDTH).permute(0, 2, 1, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            hidden = self.inner(x)
            extended = mask[:, None, None, :].to(dtype=hidden.dtype)
            extended = (1.0 - extended) * torch.finfo(hidden.dtype).min
            q, k, v = (self.transpose_for_scores(layer(hidden)) for layer in (self.query, self.key, self.value))
            s = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(WIDTH) + extended
            context = torch.matmul(self.dropout(F.softmax(s, dim=-1)), v).permute(0, 2, 1, 3).contiguous()
            made: Tensor = self.outer(self.norm(self.output(context.view(*x.shape[:2], -1)) + hidden))
            return made

    x, _, _, y = _batch()
    batch = (x, torch.tensor([[1, 1, 1, 1, 0, 0], [0] * 6]), y)
    for autocast in (None, torch.bfloat16):
        model = Block()
        step = _step(model, batch, autocast=autocast)
        assert _own(step) == ["Attention", "AttentionGradient"]
        sizes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in step.graph.value_info]
        assert not [
            shape for shape in sizes if math.prod(shape) == BATCH * HEADS * LENGTH * LENGTH and shape[-1] == LENGTH
        ]
        if autocast is None:
            _compare(step, model, batch)


LEFT: dict[str, Attend] = {
    "probabilities that are kept": _kept,
    "scores that are kept": lambda q, k, v, _: (s := scores(q, k)).softmax(-1) @ v + s.mean((2, 3), keepdim=True),
    "another axis": lambda q, k, v, _: scores(q, k).softmax(-2) @ v,
    "hooks": _hooked,
    "scores without gradients": _without_gradient,
    "detached probabilities": lambda q, k, v, _: scores(q, k).softmax(-1).detach() @ v,
    "a trained mask": lambda q, k, v, _: (scores(q, k) + v.mean((1, 3))[:, None, None]).softmax(-1) @ v,
    "a fill that does not hide": lambda q, k, v, m: scores(q, k).masked_fill(~m, -5.0).softmax(-1) @ v,
    "a finite fill and an addition": lambda q, k, v, m: (
        (scores(q, k) + (1.0 - m.float()) * -1e4).masked_fill(~m, -1e9).softmax(-1) @ v
    ),
    "odd heads": lambda q, k, v, _: F.pad((q[..., :7] @ k[..., :7].mT).softmax(-1) @ v[..., :7], (0, 1)),
    "a factor for each key": lambda q, k, v, m: (scores(q, k) * m.float()).softmax(-1) @ v,
    "cut probabilities": lambda q, k, v, _: scores(q, k).softmax(-1)[..., 1:] @ v[..., 1:, :],
}


@pytest.mark.parametrize("name", LEFT)
def test_what_only_looks_like_attention_stays_as_it_is_written(name: str) -> None:
    model, batch = Model(LEFT[name]), _batch()
    step = _step(model, batch)
    assert _own(step) == []
    _compare(step, model, batch)


def test_dropout_of_probabilities_stays_as_it_is_written() -> None:
    step = _step(Model(lambda q, k, v, _: F.dropout(scores(q, k).softmax(-1), 0.1) @ v), _batch())
    assert _own(step) == []
    assert [n for n in step.graph.node if n.op_type == "Softmax"]


def test_one_site_that_is_kept_leaves_the_others_whole() -> None:
    def both(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return _kept(q, k, v, mask) + WRITTEN["plain"](q, k, v, mask)

    model, batch = Model(both), _batch()
    step = _step(model, batch)
    assert _own(step) == ["Attention", "AttentionGradient"]
    _compare(step, model, batch)


def test_nothing_changes_without_kernels() -> None:
    step = _step(Model(WRITTEN["plain"]), _batch(), device="cpu")
    assert _own(step) == []
    assert [n for n in step.graph.node if n.op_type == "Softmax"]


@pytest.mark.parametrize("name", ["added lowest", "added truths", "filled lowest", "scaled, numbers", "padding"])
def test_half_precision_has_the_gradient_of_a_query_that_sees_no_key(name: str) -> None:
    def loss(y: Tensor, target: Tensor) -> Tensor:
        return ((y[0, 2].float() - target[0, 2]) ** 2).sum()

    model, batch = Model(WRITTEN[name]), _batch(shut=2)
    step = planc.torch.export_training_step(
        model, loss, (batch[:-1], batch[-1]), Optimizer("sgd", 1.0), device="cuda", autocast=torch.bfloat16
    )
    assert _own(step) == ["Attention", "AttentionGradient"]
    held = {t.name for t in step.graph.initializer}
    names = [i.name for i in step.graph.input if i.name not in held]
    result = run_steps(planc.widen(step), dict(zip(names, (t.numpy() for t in batch), strict=False)))[0]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    exact, batch = model.double(), tuple(t.double() if t.is_floating_point() else t for t in batch)
    loss(exact(*batch[:-1]), batch[-1]).backward()
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        grad = before[name].numpy() - result[f"{name}.next"]
        if name == "k.bias":  # which softmax does not see
            continue
        scale = parameter.grad.abs().max().item()
        np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=0.02, atol=0.02 * scale + 1e-6, err_msg=name)


@pytest.mark.parametrize(
    "name", ["plain", "added mask", "added constant", "added lowest", "added truths", "filled", "grouped"]
)
def test_half_precision_under_autocast_is_one_operator_in_half_precision(name: str) -> None:
    step = _step(Model(WRITTEN[name], 2 if name == "grouped" else HEADS), _batch(), autocast=torch.bfloat16)
    assert _own(step) == ["Attention", "AttentionGradient"]
    types = {v.name: v.type.tensor_type.elem_type for v in step.graph.value_info}
    node = next(n for n in step.graph.node if n.op_type.startswith("Attention_"))
    assert {types.get(name, onnx.TensorProto.BFLOAT16) for name in node.input} == {onnx.TensorProto.BFLOAT16}
    assert len(_matrices(step)) == 0


def test_multihead_attention_that_gives_its_weights_is_one_operator() -> None:
    class Multi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(HEADS * WIDTH, HEADS, kdim=12, vdim=12, batch_first=True)
            self.q, self.out = nn.Linear(12, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, 5)

        def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
            made: Tensor = self.out(self.attention(self.q(x), other, other, mask[:, 0, 0] == 0)[0])
            return made

    model, batch = Multi(), _batch()
    assert _own(_step(model, batch, autocast=torch.bfloat16)) == ["Attention", "AttentionGradient"]
    step = _step(model, batch)
    assert _own(step) == ["Attention", "AttentionGradient"]
    assert _matrices(step) == []
    _compare(step, model, batch)
