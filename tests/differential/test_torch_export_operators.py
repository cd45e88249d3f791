"""Gradients of single torch operators through the export, against autograd in float64.

One export holds a family of operators, each with a parameter of its own, so that a wrong one is named.
"""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import planc.torch
from planc.errors import ModelError
from planc.training import Optimizer

Operator = Callable[[Tensor, Tensor], Tensor]

SHAPE = (2, 4, 6, 6)


def _assigned(w: Tensor) -> Tensor:
    y = w.clone()
    y[:, 1] = 0.0
    y[:, :, 2:4] *= 2
    return y


def _filled(w: Tensor, *shape: int) -> Tensor:
    return torch.linspace(-1, 1, int(np.prod(shape)), dtype=w.dtype).reshape(shape)


FAMILIES: dict[str, dict[str, Operator]] = {
    "activations": {
        "elu": lambda w, x: F.elu(w),
        "selu": lambda w, x: F.selu(w),
        "celu": lambda w, x: F.celu(w, 0.7),
        "softplus": lambda w, x: F.softplus(w),
        "mish": lambda w, x: F.mish(w),
        "silu": lambda w, x: F.silu(w),
        "gelu": lambda w, x: F.gelu(w),
        "gelu_tanh": lambda w, x: F.gelu(w, approximate="tanh"),
        "relu6": lambda w, x: F.relu6(w),
        "hardtanh": lambda w, x: F.hardtanh(w),
        "hardswish": lambda w, x: F.hardswish(w),
        "hardsigmoid": lambda w, x: F.hardsigmoid(w),
        "leaky_relu": lambda w, x: F.leaky_relu(w, 0.3),
        "logsigmoid": lambda w, x: F.logsigmoid(w),
        "threshold": lambda w, x: F.threshold(w, 0.2, 0.0),
        "glu": lambda w, x: F.glu(w, 1),
        "softmin": lambda w, x: F.softmin(w, 1),
        "log_softmax": lambda w, x: F.log_softmax(w, 2),
    },
    "arithmetic": {
        "pow": lambda w, x: w.abs() ** 1.5,
        "cube": lambda w, x: w**3,
        "rsqrt": lambda w, x: (w * w + 1).rsqrt(),
        "log1p": lambda w, x: (w * w).log1p(),
        "expm1": lambda w, x: w.expm1(),
        "reciprocal": lambda w, x: 1 / (w * w + 1),
        "clamp": lambda w, x: w.clamp(-0.5, 0.5),
        "clamp_min": lambda w, x: w.clamp(min=0.1),
        "where": lambda w, x: torch.where(x > 0, w, w * 2),
        "masked_fill": lambda w, x: w.masked_fill(x > 0, 0.3),
        "bool_product": lambda w, x: w * (x > 0),
        "minimum": lambda w, x: torch.minimum(w, x),
        "trigonometry": lambda w, x: w.sin() * w.cos() + w.atan(),
        "addcmul": lambda w, x: torch.addcmul(w, w, x, value=0.3),
        "lerp": lambda w, x: torch.lerp(w, x, 0.3),
        "rsub": lambda w, x: 2 - w,
        "subtract_scaled": lambda w, x: torch.sub(w, w * x, alpha=3),
        "integer_factor": lambda w, x: w * torch.arange(6) / 7,
        "broadcast": lambda w, x: w.mean(1, keepdim=True).expand(SHAPE) + x,
    },
    "reductions": {
        "mean": lambda w, x: w.mean((0, 2)),
        "sum_channels": lambda w, x: w.sum((0, 2, 3)),
        "amax": lambda w, x: w.amax((2, 3)),
        "max": lambda w, x: w.max(1).values,
        "min": lambda w, x: w.min(2, keepdim=True).values,
        "topk": lambda w, x: w.topk(2, 1).values,
        "sort": lambda w, x: w.sort(1).values,
        "std": lambda w, x: w.std((2, 3)),
        "var": lambda w, x: w.var(1),
        "norm": lambda w, x: w.norm(dim=1),
        "normalize": lambda w, x: F.normalize(w, dim=1),
        "logsumexp": lambda w, x: w.logsumexp(1),
        "cumsum": lambda w, x: w.cumsum(1),
    },
    "movement": {
        "roll": lambda w, x: torch.roll(w, (1, 2), (2, 3)),
        "reflect": lambda w, x: F.pad(w, (1, 2, 0, 1), mode="reflect"),
        "replicate": lambda w, x: F.pad(w, (1, 0, 2, 1), mode="replicate"),
        "constant": lambda w, x: F.pad(w, (1, 2, -1, 1), value=2.0),
        "pixel_shuffle": lambda w, x: F.pixel_shuffle(w, 2),
        "tril": lambda w, x: w.tril(1),
        "flip": lambda w, x: w.flip(2),
        "repeat": lambda w, x: w.repeat(1, 2, 1, 1),
        "repeat_interleave": lambda w, x: w.repeat_interleave(2, 1),
        "stack": lambda w, x: torch.stack([w, w * 2], 1),
        "swap": lambda w, x: torch.cat(w.chunk(2, 1)[::-1], 1),
        "unbind": lambda w, x: w.unbind(1)[1] * w.unbind(1)[0],
        "strided": lambda w, x: w[:, ::2, 1:5:3],
        "select": lambda w, x: w[:, -1],
        "index": lambda w, x: w[:, torch.tensor([0, 2, 2])],
        "gather": lambda w, x: w.gather(1, torch.zeros(2, 2, 6, 6, dtype=torch.long)),
        "assign": lambda w, x: _assigned(w),
        "movedim": lambda w, x: w.movedim(1, 3) * 1.5,
    },
    "products": {
        "einsum": lambda w, x: torch.einsum("nchw,nchv->nwv", w, w),
        "matrix_vector": lambda w, x: torch.mv(w[0, 0], w[0, 1, 0]),
        "dot": lambda w, x: torch.dot(w[0, 0, 0], w[0, 1, 0]),
        "baddbmm": lambda w, x: torch.baddbmm(w[0], w[0], w[1], beta=0.5, alpha=2),
        "attention": lambda w, x: F.scaled_dot_product_attention(w, x, w, attn_mask=x > -3),
        "grouped_attention": lambda w, x: F.scaled_dot_product_attention(
            w, w[:, :2], w[:, :2], enable_gqa=True, is_causal=True
        ),
        "scaled_attention": lambda w, x: F.scaled_dot_product_attention(w, w, x, attn_mask=x, scale=0.3),
        "conv1d": lambda w, x: F.conv1d(w.flatten(2), _filled(w, 3, 4, 3), stride=2),
        "conv3d": lambda w, x: F.conv3d(w[:, None], _filled(w, 2, 1, 2, 2, 2)),
        "conv_transpose": lambda w, x: F.conv_transpose2d(w, _filled(w, 4, 3, 3, 3), None, 2, 1, 1),
        "conv_transpose_grouped": lambda w, x: F.conv_transpose2d(w, _filled(w, 4, 2, 3, 3), stride=2, groups=2),
        "instance_norm": lambda w, x: F.instance_norm(w),
        "rms_norm": lambda w, x: F.rms_norm(w, (6,)),
    },
    "windows": {
        "lrn": lambda w, x: F.local_response_norm(w, 3),
        "bicubic": lambda w, x: F.interpolate(w, scale_factor=2, mode="bicubic"),
        "bilinear": lambda w, x: F.interpolate(w, size=(9, 7), mode="bilinear"),
        "bilinear_corners": lambda w, x: F.interpolate(w, scale_factor=1.5, mode="bilinear", align_corners=True),
        "nearest": lambda w, x: F.interpolate(w, size=(9, 7)),
        "area": lambda w, x: F.interpolate(w, size=(3, 3), mode="area"),
        "adaptive_max": lambda w, x: F.adaptive_max_pool2d(w, 3),
        "adaptive_average": lambda w, x: F.adaptive_avg_pool2d(w, 4),
        "avg_pool1d": lambda w, x: F.avg_pool1d(w.flatten(2), 3),
        "max_pool1d": lambda w, x: F.max_pool1d(w.flatten(2), 3),
        "max_pool_dilated": lambda w, x: F.max_pool2d(w, 2, dilation=2),
        "lp_pool": lambda w, x: F.lp_pool2d(w * w + 1, 2, 2),
    },
    "positions": {
        "pairs": lambda w, x: w[torch.tensor([0, 1, 1]), torch.tensor([1, -2, 1])],
        "apart": lambda w, x: w[torch.tensor([0, 1, 1]), :, torch.tensor([1, 2, 1])],
        "inner": lambda w, x: w[:, torch.tensor([[0], [3]]), torch.tensor([1, 2, 5])],
        "computed": lambda w, x: w[torch.arange(2), x.argmax(1)[:, 0, 0]],
        "put": lambda w, x: w.index_put((torch.tensor([0, 1]), torch.tensor([1, 1])), x[:, 0]),
        "put repeatedly": lambda w, x: x.index_put(
            (torch.tensor([0, 0]), torch.tensor([1, 1])), w[:, 0], accumulate=True
        ),
        "put by mask": lambda w, x: w.index_put((x > 0,), torch.tensor(0.3)),
        "masked_scatter": lambda w, x: x.masked_scatter(x > 0, w),
        "scatter_mean": lambda w, x: x.scatter_reduce(1, x.argsort(1) // 2, w, "mean"),
        "scatter_amax": lambda w, x: x.scatter_reduce(1, x.argsort(1) // 2, w, "amax", include_self=False),
        "unfold": lambda w, x: F.unfold(w, 3, padding=1, stride=2),
        "fold": lambda w, x: F.fold(w.reshape(2, 4, 36), (7, 7), 2),
        "windows": lambda w, x: w.unfold(2, 3, 2),
        "grid_sample": lambda w, x: F.grid_sample(w, x[:, :2].movedim(1, 3).tanh() * 1.2, align_corners=False),
        "grid_nearest": lambda w, x: F.grid_sample(
            w, x[:, :2].movedim(1, 3).tanh(), mode="nearest", align_corners=True
        ),
        "affine_grid": lambda w, x: F.grid_sample(
            x, F.affine_grid(w[:, 0, :2, :3], (2, 4, 5, 5), align_corners=False), align_corners=False
        ),
        "embedding_bag": lambda w, x: F.embedding_bag(torch.tensor([[0, 1], [2, 2]]), w[0, 0]),
        "embedding_bag_max": lambda w, x: F.embedding_bag(
            torch.tensor([0, 1, 2, 2]), w[0, 0], torch.tensor([0, 3]), mode="max"
        ),
        "cdist": lambda w, x: torch.cdist(w[0], x[1]),
        "pdist": lambda w, x: F.pdist(w[0, 0]),
        "diagonal": lambda w, x: w.diagonal(1, 2, 3),
        "max_unpool": lambda w, x: F.max_unpool2d(*F.max_pool2d(w, 2, return_indices=True), 2),
    },
    "complex": {
        "fft": lambda w, x: torch.fft.fft(w).real,
        "fftn": lambda w, x: torch.fft.fftn(w, dim=(1, 3)).real,
        "fft_size": lambda w, x: torch.fft.fft(w * x, dim=2).abs(),
        "ifft": lambda w, x: torch.fft.ifft(torch.complex(w, x), norm="ortho").imag,
        "rfft_irfft": lambda w, x: torch.fft.irfft(torch.fft.rfft(w, norm="forward") * torch.fft.rfft(x), n=6),
        "irfft_odd": lambda w, x: torch.fft.irfft(torch.complex(w, x), n=7),
        "rfft2": lambda w, x: torch.view_as_real(torch.fft.rfft2(w)),
        "filtered": lambda w, x: torch.fft.irfft2(
            torch.fft.rfft2(x) * torch.view_as_complex(w[:, :1, :, :2].unsqueeze(3)).expand(2, 4, 6, 4), s=(6, 6)
        ),
        "conjugated": lambda w, x: (torch.fft.fft(w) * torch.fft.fft(x).conj()).real,
    },
    "samples": {
        "volume": lambda w, x: F.grid_sample(
            w[None],
            x[:1, 0, :3, :3].expand(1, 2, 3, 3).unsqueeze(2).tanh() * 1.3,
            padding_mode="reflection",
            align_corners=False,
        ),
        "volume_nearest": lambda w, x: F.grid_sample(
            w[None],
            x[:1, :3, :3, :3].tanh()[None].flatten(0, 1)[:, None].permute(0, 1, 3, 4, 2),
            mode="nearest",
            align_corners=True,
        ),
        "antialiased": lambda w, x: F.interpolate(w, size=(4, 3), mode="bilinear", antialias=True),
        "antialiased_cubic": lambda w, x: F.interpolate(w, size=(3, 9), mode="bicubic", antialias=True),
        "bilinear_layer": lambda w, x: F.bilinear(w[0, 0], x[0, 0], w[1].reshape(4, 6, 6)),
        "ctc": lambda w, x: F.ctc_loss(
            w.flatten(1).reshape(12, 4, 6).log_softmax(2),
            torch.tensor([[1, 1, 2], [3, 4, 5], [2, 1, 2], [5, 5, 5]]),
            (12, 12, 9, 4),
            (3, 2, 3, 3),
            zero_infinity=True,
        ),
        "ctc_lengths": lambda w, x: F.ctc_loss(
            w.flatten(1).reshape(12, 4, 6).log_softmax(2),
            torch.tensor([[1, 1, 2], [3, 4, 5], [2, 1, 2], [5, 5, 5]]),
            (x[0, 0, 0, :4] > 0).long() + 10,
            (x[0, 0, 1, :4] > 0).long() + 2,
            reduction="sum",
        ),
        "ctc_scores": lambda w, x: F.ctc_loss(
            2 * w.flatten(1).reshape(12, 4, 6),
            torch.tensor([[1, 1, -1], [3, 4, 5], [-100, 0, 0], [5, 5, 5]]),
            (12, 3, 9, 6),
            (2, 3, 0, 3),
            reduction="sum",
        ),
        "ctc_impossible": lambda w, x: F.ctc_loss(
            w.flatten(1).reshape(12, 4, 6), torch.tensor([1, 1, 2, 3, 2, 5, 5, 5]), (12, 3, 9, 4), (3, 1, 1, 3)
        ),
        "hypot": lambda w, x: torch.hypot(w, x),
        "fmax": lambda w, x: torch.fmax(w, x),
        "divisor": lambda w, x: F.avg_pool2d(w, 3, 2, 1, ceil_mode=True, divisor_override=5),
        "ceiling": lambda w, x: F.avg_pool2d(w, (3, 2), 2, 1, ceil_mode=True),
        "output_padding": lambda w, x: F.conv_transpose2d(
            w, _filled(w, 4, 2, 3, 3), stride=2, padding=1, output_padding=2, dilation=3
        ),
        "every_second": lambda w, x: torch.slice_scatter(x, w[:, :, ::2], 2, 0, 6, 2),
    },
    "scans": {
        "cumprod": lambda w, x: w.cumprod(2),
        "cummax": lambda w, x: w.cummax(2).values,
        "logcumsumexp": lambda w, x: w.logcumsumexp(1),
        "logcumsumexp_far": lambda w, x: (w * 1e4).logcumsumexp(3) * 1e-4,
        "histogram": lambda w, x: w * torch.histc(x, 6)[0] + w.as_strided((), ()),
        "prod": lambda w, x: w.prod(2),
        "median": lambda w, x: w.median(1).values,
        "kthvalue": lambda w, x: w.kthvalue(3, 2).values,
        "var_mean": lambda w, x: torch.var_mean(w, 1)[0],
        "searched": lambda w, x: w * torch.bucketize(x, torch.tensor([-0.5, 0.1, 0.8])),
        "floor_divide": lambda w, x: w * torch.div(x, 0.3, rounding_mode="floor"),
        "remainder": lambda w, x: w * (x % 0.3) + w % 0.7,
    },
    "more windows": {
        "linear1d": lambda w, x: F.interpolate(w.flatten(2), scale_factor=2, mode="linear"),
        "trilinear": lambda w, x: F.interpolate(w[None], size=(6, 9, 7), mode="trilinear"),
        "nearest_exact": lambda w, x: F.interpolate(w, size=(9, 7), mode="nearest-exact"),
        "adaptive_max": lambda w, x: F.adaptive_max_pool2d(w, 4),
        "adaptive_average3d": lambda w, x: F.adaptive_avg_pool3d(w[None], (2, 4, 5)),
        "reflect1d": lambda w, x: F.pad(w.flatten(2), (2, 3), mode="reflect"),
        "replicate3d": lambda w, x: F.pad(w[None], (1, 0, 2, 1, 0, 1), mode="replicate"),
        "circular": lambda w, x: F.pad(w, (2, 1, 0, 1), mode="circular"),
    },
    "losses": {
        "bce": lambda w, x: F.binary_cross_entropy_with_logits(w, torch.sigmoid(x)),
        "smooth_l1": lambda w, x: F.smooth_l1_loss(w, x),
        "l1": lambda w, x: F.l1_loss(w, x),
        "huber": lambda w, x: F.huber_loss(w, x),
        "kl": lambda w, x: F.kl_div(F.log_softmax(w, 1), F.softmax(x, 1), reduction="batchmean"),
        "smoothed": lambda w, x: F.cross_entropy(w, x.argmax(1), label_smoothing=0.1),
        "weighted": lambda w, x: F.cross_entropy(w, x.argmax(1), weight=_filled(w, 4) + 2),
        "ignoring": lambda w, x: F.cross_entropy(w, x.argmax(1), ignore_index=2, reduction="sum"),
        "none": lambda w, x: F.cross_entropy(w, x.argmax(1), reduction="none").square().mean(),
        "probabilities": lambda w, x: F.cross_entropy(w, F.softmax(x, 1)),
        "cosine": lambda w, x: 1 - F.cosine_similarity(w, x, 1).mean(),
    },
}


class Family(nn.Module):
    """The sum over all operators of a weighted sum of their results."""

    def __init__(self, operators: dict[str, Operator]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.operators = operators
        self.weights = nn.ParameterDict({f"op_{name}": torch.randn(SHAPE) for name in operators})

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for name, operator in self.operators.items():
            y = operator(self.weights[f"op_{name}"], x)
            total = total + (y * (1 + 0.5 * _filled(y, *y.shape))).sum()
        return total


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_match_autograd(family: str) -> None:
    module = Family(FAMILIES[family])
    x = torch.randn(SHAPE)
    model = planc.torch.export_training_step(module, lambda y: y, (x, None), Optimizer("sgd", 1.0))
    assert violations(model) == []
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    used = {"x": x.numpy()} if "x" in {i.name for i in model.graph.input} else {}
    (made,) = run_steps(model, used)
    wide = Family(FAMILIES[family]).double()
    wide(x.double()).backward()
    for name, parameter in wide.named_parameters():
        found, expected = before[name] - made[state_pairs(model)[name]], parameter.grad.numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (lambda w, x: torch.special.bessel_j0(x) * w, r"bessel_j0.*test_torch_export_operators"),
        (lambda w, x: torch.fft.fft(w).exp().real, "aten.exp.default.*complex"),
        (lambda w, x: w * float(x.sum()), "the value of a tensor decides"),
    ],
)
def test_what_has_no_lowering_is_named(operator: Operator, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        planc.torch.export_training_step(
            Family({"one": operator}), lambda y: y, (torch.randn(SHAPE), None), Optimizer("sgd")
        )
