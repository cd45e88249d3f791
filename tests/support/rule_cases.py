"""Cases of gradient rules and function bodies: an operator, its operands, and what torch calls it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Case:
    """One operator: shapes of its float inputs (all differentiated), constants after them, and its torch equivalent."""

    op: str
    shapes: Sequence[Sequence[int]]
    torch: Callable[..., Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: Sequence[Any] = ()
    low: float | None = None
    high: float = 1.0
    label: str = ""
    opset: int = 18
    constants_first: bool = False
    distinct: bool = False
    cpu_only: bool = False
    outputs: tuple[str, ...] = ("y",)
    order: tuple[int, ...] = ()
    """Positions of operands where they are not the drawn ones first, then the constants."""

    @property
    def name(self) -> str:
        return f"{self.op}{'-' + self.label if self.label else ''}"


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


AT = i64(3, -1, 1)
PLACES = np.array([[0, 2, 1], [2, 0, 2]], np.int64)
SLICES = np.array([[[0, 1], [1, -1]], [[2, 0], [2, 2]]], np.int64)
APART = np.array([[0, 1], [2, -1], [1, 0]], np.int64)
COLLIDING = np.array([[0, 1], [0, 1], [1, 0]], np.int64)
LENGTHS = i64(4, 1, 3)
WINDOW = np.hanning(8).astype(np.float32) + np.float32(0.1)
REGIONS = np.array([[0.5, 0.2, 4.6, 3.9], [-1.0, 1.0, 5.0, 5.5], [2.0, 2.0, 2.3, 2.1]], np.float32)
OWNERS = i64(0, 1, 0)


def _place(index: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(index)


def _pairs(x: torch.Tensor) -> torch.Tensor:
    """Complex numbers of pairs on the last axis."""
    return torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]


def _fourier(length: int | None = None, axis: int = 1, inverse: bool = False, one_sided: bool = False) -> Any:
    def run(x: torch.Tensor) -> torch.Tensor:
        z = _pairs(x)
        if one_sided:
            return torch.view_as_real(torch.fft.rfft(z, length, axis))
        return torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(z, length, axis))

    return run


def _frames(x: torch.Tensor) -> torch.Tensor:
    window = torch.from_numpy(WINDOW).to(x.dtype)
    made = torch.stft(x[..., 0], 8, 3, window=window, center=False, onesided=True, return_complex=True)
    return torch.view_as_real(made).transpose(1, 2)


def _lp(x: torch.Tensor, p: int) -> torch.Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)).abs() ** p, 3, 2).mul(9) ** (1 / p)


def _grids() -> list[Case]:
    found = []
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                named = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
                found.append(
                    Case(
                        "GridSample",
                        [[2, 3, 5, 4], [2, 3, 2, 2]],
                        lambda x, g, m=named, p=padding, a=align: F.grid_sample(x, g, m, p, bool(a)),
                        {"mode": mode, "padding_mode": padding, "align_corners": align},
                        label=f"{mode}-{padding}-{align}",
                        opset=20,
                        low=-1.35,
                        high=1.35,
                    )
                )
    volume = [[1, 2, 3, 4, 3], [1, 2, 2, 3, 3]]
    for mode in ("linear", "nearest"):
        named = "bilinear" if mode == "linear" else mode
        found.append(
            Case(
                "GridSample",
                volume,
                lambda x, g, m=named: F.grid_sample(x, g, m, "reflection", False),
                {"mode": mode, "padding_mode": "reflection"},
                label=f"volume-{mode}",
                opset=20,
                low=-1.4,
                high=1.4,
            )
        )
    return found


def _unfolded(x: torch.Tensor) -> torch.Tensor:
    return F.fold(x, (6, 7), (2, 3), dilation=(2, 1), padding=(1, 0), stride=(1, 2))


def _normalised(x: torch.Tensor, p: int) -> torch.Tensor:
    return x / x.abs().pow(p).sum(1, keepdim=True) ** (1 / p)


def _roi(x: torch.Tensor, half: bool) -> torch.Tensor:
    """By sampling: the positions of all samples are put into a grid."""
    planes = []
    for (x1, y1, x2, y2), owner in zip(REGIONS * 0.5, OWNERS, strict=True):
        shift = 0.5 if half else 0.0
        starts = [y1 - shift, x1 - shift]
        extents = [y2 - y1, x2 - x1] if half else [max(y2 - y1, 1.0), max(x2 - x1, 1.0)]
        axes = []
        for start, extent, size in zip(starts, extents, x.shape[2:], strict=True):
            at = start + extent * (np.arange(6) + 0.5) / 6
            axes.append((np.clip(at, 0, size - 1), (at >= -1) & (at <= size)))
        (h, inside_h), (w, inside_w) = axes
        grid = np.stack(
            np.meshgrid(2 * h / (x.shape[2] - 1) - 1, 2 * w / (x.shape[3] - 1) - 1, indexing="ij")[::-1], -1
        )
        sampled = F.grid_sample(x[owner][None], torch.from_numpy(grid)[None].to(x.dtype), align_corners=True)
        mask = torch.from_numpy(np.outer(inside_h, inside_w)).to(x.dtype)
        planes.append((sampled * mask)[0].unflatten(1, (3, 2)).unflatten(3, (3, 2)).mean((2, 4)))
    return torch.stack(planes)


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _unpooled(x: torch.Tensor) -> torch.Tensor:
    flat = torch.zeros(1 * 2 * 4 * 4, dtype=x.dtype)
    return flat.index_add(0, torch.from_numpy(UNPOOL).reshape(-1), x.reshape(-1)).reshape(1, 2, 4, 4)


UNPOOL = np.array([[[[0, 3], [9, 10]], [[17, 18], [28, 31]]]], np.int64)


def _scattered(reduction: str) -> Callable[..., torch.Tensor]:
    def run(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return x.scatter_reduce(1, _place(PLACES), u, reduction)

    return run


def _slices(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    rows = torch.tensor([[0], [2], [0]])
    return x.scatter_reduce(0, rows.expand(3, 4), u, "prod")


FURTHER = [
    *(
        Case(name, [[3, 4]], getattr(torch, name.lower()), low=low, high=high)
        for name, low, high in (
            ("Tan", -1.2, 1.2),
            ("Sinh", -2, 2),
            ("Cosh", -2, 2),
            ("Asin", -0.9, 0.9),
            ("Acos", -0.9, 0.9),
            ("Atan", -3, 3),
            ("Asinh", -3, 3),
            ("Acosh", 1.2, 4),
            ("Atanh", -0.9, 0.9),
        )
    ),
    *(
        Case(name, [[3, 4]], lambda x, f=name: x * 0 + getattr(torch, f.lower())(x))
        for name in ("Ceil", "Floor", "Round", "Sign")
    ),
    Case("Hardmax", [[3, 4]], lambda x: x * 0 + F.one_hot(x.argmax(1), 4)),
    Case("EyeLike", [[3, 4]], lambda x: x * 0 + torch.eye(3, 4)),
    Case("Mean", [[2, 3], [2, 3], [3]], lambda a, b, c: (a + b + c) / 3),
    Case("Mod", [[3, 4], [4]], torch.fmod, {"fmod": 1}, low=0.3, high=5),
    Case("ReduceProd", [[2, 3, 4]], lambda x: x.prod(1), {"keepdims": 0}, [i64(1)]),
    Case("CumProd", [[3, 5]], lambda x: x.cumprod(1), {}, [np.int64(1)], opset=26),
    Case(
        "CumProd",
        [[3, 5]],
        lambda x: torch.cat([torch.ones(3, 1, dtype=x.dtype), x.flip(1).cumprod(1)[:, :-1]], 1).flip(1),
        {"reverse": 1, "exclusive": 1},
        [np.int64(-1)],
        opset=26,
        label="reverse",
    ),
    Case("GatherND", [[3, 4, 5]], lambda x: x[tuple(_place(SLICES).unbind(-1))], {}, [SLICES]),
    Case(
        "GatherND",
        [[2, 3, 4]],
        lambda x: torch.stack([x[i][_place(SLICES)[i, :, 0]] for i in range(2)]),
        {"batch_dims": 1},
        [SLICES[:, :, :1]],
        label="batch",
    ),
    Case(
        "GatherElements",
        [[2, 5]],
        lambda x: x.gather(1, _place(PLACES) % 5),
        {"axis": -1},
        [PLACES - 5],
        label="negative",
    ),
    Case(
        "ScatterElements",
        [[2, 5], [2, 2]],
        lambda x, u: x.scatter(1, _place(PLACES[:, :2]), u),
        {"axis": 1},
        [PLACES[:, :2]],
        order=(0, 2, 1),
        label="none",
    ),
    *(
        Case(
            "ScatterElements",
            [[2, 5], [2, 3]],
            _scattered(name),
            {"axis": 1, "reduction": kind},
            [PLACES],
            order=(0, 2, 1),
            label=kind,
            cpu_only=kind == "mul",
        )
        for kind, name in (("add", "sum"), ("mul", "prod"), ("max", "amax"), ("min", "amin"))
    ),
    Case(
        "ScatterND",
        [[3, 4, 2], [3, 2]],
        lambda x, u: x.index_put(tuple(_place(APART).unbind(-1)), u),
        {},
        [APART],
        order=(0, 2, 1),
        opset=18,
        label="none",
    ),
    Case(
        "ScatterND",
        [[3, 4, 2], [3, 2]],
        lambda x, u: x.index_put(tuple(_place(COLLIDING).unbind(-1)), u, accumulate=True),
        {"reduction": "add"},
        [COLLIDING],
        order=(0, 2, 1),
        opset=18,
        label="add",
    ),
    Case(
        "ScatterND",
        [[3, 4], [3, 4]],
        _slices,
        {"reduction": "mul"},
        [np.array([[0], [2], [-3]], np.int64)],
        order=(0, 2, 1),
        opset=18,
        label="mul",
        cpu_only=True,
    ),
    Case("TopK", [[3, 6]], lambda x: x.topk(2, 1).values, {"axis": 1}, [i64(2)], outputs=("y", "at")),
    Case(
        "TopK",
        [[3, 6]],
        lambda x: x.topk(3, 0, largest=False).values,
        {"axis": 0, "largest": 0},
        outputs=("y", "at"),
        constants=[i64(3)],
        label="least",
    ),
    Case(
        "OneHot",
        [[2]],
        lambda v: v[0] + (v[1] - v[0]) * F.one_hot(_place(PLACES), 4),
        {},
        [PLACES, i64(4)],
        order=(1, 2, 0),
    ),
    Case("MaxUnpool", [[1, 2, 2, 2]], _unpooled, {"kernel_shape": [2, 2], "strides": [2, 2]}, [UNPOOL], opset=11),
    Case(
        "Col2Im",
        [[2, 3 * 6, 18]],
        _unfolded,
        {"dilations": [2, 1], "pads": [1, 0, 1, 0], "strides": [1, 2]},
        [i64(6, 7), i64(2, 3)],
    ),
    *(
        Case(
            "LpPool",
            [[2, 3, 6, 7]],
            lambda x, p=p: _lp(x, p),
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "p": p},
            label=f"{p}",
        )
        for p in (1, 2, 3)
    ),
    Case("GlobalLpPool", [[2, 3, 4, 5]], lambda x: x.abs().pow(3).sum((2, 3), True) ** (1 / 3), {"p": 3}),
    *(
        Case("LpNormalization", [[3, 4]], lambda x, p=p: _normalised(x, p), {"axis": 1, "p": p}, label=f"{p}")
        for p in (1, 2)
    ),
    Case("Einsum", [[3, 3]], torch.trace, {"equation": "ii->"}, label="trace"),
    Case(
        "Einsum",
        [[2, 3, 3], [3, 4]],
        lambda a, b: torch.einsum("bii,ik->bk", a, b),
        {"equation": "bii,ik->bk"},
        label="diagonal",
    ),
    Case(
        "ReverseSequence",
        [[4, 3, 2]],
        lambda x: torch.stack([torch.cat([x[:n, i].flip(0), x[n:, i]]) for i, n in enumerate(LENGTHS)], 1),
        {},
        [LENGTHS],
    ),
    Case("Det", [[2, 4, 4]], torch.linalg.det),
    Case("DFT", [[2, 6, 2]], _fourier(), {}, [], opset=20),
    Case("DFT", [[2, 6, 3, 1]], _fourier(axis=1), {"axis": 1}, [], opset=17, label="real"),
    Case(
        "DFT",
        [[2, 6, 3, 2]],
        _fourier(axis=2, inverse=True),
        {"inverse": 1},
        [np.zeros(0, np.int64), np.array(-2)],
        opset=20,
        label="inverse",
    ),
    Case("DFT", [[2, 7, 1]], _fourier(5, one_sided=True), {"onesided": 1}, [np.int64(5)], opset=20, label="cut"),
    Case("DFT", [[2, 5, 1]], _fourier(8, one_sided=True), {"onesided": 1}, [np.int64(8)], opset=20, label="padded"),
    Case("STFT", [[2, 20, 1]], _frames, {}, [np.int64(3), WINDOW, np.int64(8)], opset=17),
    *_grids(),
    *(
        Case(
            "RoiAlign",
            [[2, 3, 6, 5]],
            lambda x, half=mode == "half_pixel": _roi(x, half),
            {
                "output_height": 3,
                "output_width": 3,
                "sampling_ratio": 2,
                "spatial_scale": 0.5,
                "coordinate_transformation_mode": mode,
            },
            [REGIONS, OWNERS],
            label=mode,
        )
        for mode in ("half_pixel", "output_half_pixel")
    ),
    Case("RotaryEmbedding", [[2, 3, 4, 8], [2, 4, 4], [2, 4, 4]], _rotated, {}, [], opset=23),
    Case(
        "AffineGrid",
        [[2, 2, 3]],
        lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False),
        {},
        [i64(2, 3, 4, 5)],
        opset=20,
    ),
    Case("Celu", [[3, 4]], lambda x: F.celu(x, 0.7), {"alpha": 0.7}),
    Case("Shrink", [[3, 4]], lambda x: F.softshrink(x, 0.5), {"lambd": 0.5, "bias": 0.5}),
    Case("ThresholdedRelu", [[3, 4]], lambda x: torch.where(x > 0.3, x, 0), {"alpha": 0.3}),
    Case("Softsign", [[3, 4]], F.softsign),
    Case("Swish", [[3, 4]], lambda x: x * torch.sigmoid(1.5 * x), {"alpha": 1.5}, opset=24),
    Case(
        "MeanVarianceNormalization",
        [[2, 3, 4, 4]],
        lambda x: (x - x.mean((0, 2, 3), True)) / (x.var((0, 2, 3), correction=0, keepdim=True) ** 0.5 + 1e-9),
        {"axes": [0, 2, 3]},
    ),
    Case("ReduceL1", [[2, 3, 4]], lambda x: x.abs().sum(1, True), {}, [i64(1)]),
    Case("ReduceLogSum", [[2, 3, 4]], lambda x: x.sum(1, True).log(), {}, [i64(1)], low=0.5),
    Case("ReduceLogSumExp", [[2, 3, 4]], lambda x: x.logsumexp(1, True), {}, [i64(1)]),
    Case("CastLike", [[3, 4]], lambda x: x * 1, {}, [np.float32(1)]),
    Case("CenterCropPad", [[5, 4]], lambda x: F.pad(x[1:4], (1, 1)), {}, [i64(3, 6)]),
]
