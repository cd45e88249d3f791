"""Sampling at computed coordinates (Jaderberg et al., Spatial transformer networks, 2015), in any number of dimensions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from planc.training.prepare.bodies.body import Body, Call, body

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC = -0.75


@dataclass
class _Axis:
    """One spatial axis: its size, and how coordinates outside are treated."""

    made: Body
    size: int
    align: bool
    padding: str

    def unscaled(self, grid: str) -> str:
        """Coordinates in [-1, 1] as positions of pixels."""
        if self.align:
            return self.made.scaled(self.made.shifted(grid, 1), (self.size - 1) / 2)
        return self.made.shifted(self.made.scaled(grid, self.size / 2), (self.size - 1) / 2)

    def inside(self, at: str) -> str:
        """Positions brought back inside, by border or reflection."""
        made = self.made
        if self.padding == "zeros":
            return at
        if self.padding == "reflection":
            low, high = (0.0, self.size - 1.0) if self.align else (-0.5, self.size - 0.5)
            at = self._reflected(at, low, high - low)
        return made.op("Clip", at, made.numbers(0), made.numbers(self.size - 1))

    def _reflected(self, at: str, low: float, span: float) -> str:
        made = self.made
        if span == 0:
            return made.scaled(at, 0.0)
        distance = made.op("Abs", made.shifted(at, -low))
        flips = made.op("Floor", made.op("Div", distance, made.numbers(span)))
        rest = made.op("Sub", distance, made.scaled(flips, span))
        half = made.op("Floor", made.scaled(flips, 0.5))
        even = made.op("Equal", flips, made.scaled(half, 2))
        back = made.op("Sub", made.numbers(span + low), rest)
        return made.op("Where", even, made.shifted(rest, low), back)

    def place(self, at: str) -> tuple[str, str | None]:
        """(index of a whole position, its weight 0 or 1 where it may lie outside)."""
        made = self.made
        index = made.op("Clip", at, made.numbers(0), made.numbers(self.size - 1))
        index = made.op("Cast", index, to=TensorProto.INT64)
        if self.padding != "zeros":
            return index, None
        low = made.op("GreaterOrEqual", at, made.numbers(0))
        within = made.op("And", low, made.op("LessOrEqual", at, made.numbers(self.size - 1)))
        return index, made.op("Cast", within, to=made.dtype)


Tap = tuple[str, str | None]
"""(index along an axis, weight)."""


def _taps(axis: _Axis, grid: str, mode: str) -> list[Tap]:
    """The pixels along one axis that a coordinate reads, each with its weight."""
    made, at = axis.made, axis.unscaled(grid)
    if mode == "nearest":
        return [axis.place(made.op("Round", axis.inside(at)))]
    if mode == "linear":
        at = axis.inside(at)
    floor = made.op("Floor", at)
    share = made.op("Sub", at, floor)
    if mode == "linear":
        weights = [made.op("Sub", made.numbers(1), share), share]
        places = [floor, made.shifted(floor, 1)]
    else:
        weights = _cubic(made, share)
        places = [axis.inside(made.shifted(floor, k - 1)) for k in range(4)]
    found: list[Tap] = []
    for place, weight in zip(places, weights, strict=True):
        index, within = axis.place(place)
        found.append((index, weight if within is None else made.mul(weight, within)))
    return found


def _cubic(made: Body, t: str) -> list[str]:
    """Weights of the four pixels around (Keys, Cubic convolution interpolation, 1981)."""
    a = _CUBIC
    near = [a + 2, -(a + 3), 0.0, 1.0]
    far = [a, -5 * a, 8 * a, -4 * a]
    back = made.op("Sub", made.numbers(1), t)
    pairs = [(made.shifted(t, 1), far), (t, near), (back, near), (made.shifted(back, 1), far)]
    return [_polynomial(made, x, coefficients) for x, coefficients in pairs]


def _polynomial(made: Body, x: str, coefficients: Sequence[float]) -> str:
    found = made.scaled(x, coefficients[0])
    for number in coefficients[1:-1]:
        found = made.mul(made.shifted(found, number), x)
    return made.shifted(found, coefficients[-1])


@body("GridSample")
def grid_sample(call: Call, made: Body) -> str:
    """X [N, C, D1, ...] at grid [N, O1, ..., axes], whose last axis begins with the position along X's last axis."""
    n, channels, *sizes = call.shape(0)
    _, *out, dims = call.shape(1)
    mode = call.attributes.get("mode", "linear")
    mode, align = _MODES.get(mode, mode), bool(call.attributes.get("align_corners", 0))
    points = made.viewed("x1", [n, math.prod(out), dims])
    if mode == "cubic" and dims != 2:
        raise call.refuse("cubic sampling is defined in two dimensions only")
    taps = []
    for i, size in enumerate(sizes):
        column = made.viewed(made.sliced(points, 2, dims - 1 - i, dims - i), [n, math.prod(out)])
        axis = _Axis(made, size, align, call.attributes.get("padding_mode", "zeros"))
        taps.append(_taps(axis, column, mode))
    pixels = made.viewed("x0", [n, channels, math.prod(sizes)])
    rows = made.op("Transpose", pixels, perm=[0, 2, 1])
    found = ""
    for chosen in itertools.product(*taps):
        term = _read(made, rows, chosen, sizes, (n, math.prod(out)))
        found = made.add(found, term) if found else term
    return made.viewed(made.op("Transpose", found, perm=[0, 2, 1]), [n, channels, *out])


def _read(made: Body, rows: str, chosen: Sequence[Tap], sizes: Sequence[int], points: tuple[int, int]) -> str:
    """[N, P, C]: the pixels at one choice of tap per axis, times their weights."""
    flat, weight = "", ""
    for (index, share), size in zip(chosen, sizes, strict=True):
        flat = made.op("Add", made.mul(flat, made.constant(np.array(size))), index) if flat else index
        if share is not None:
            weight = made.mul(weight, share) if weight else share
    values = made.op("GatherND", rows, made.viewed(flat, [*points, 1]), batch_dims=1)
    return made.mul(values, made.viewed(weight, [*points, 1])) if weight else values


@body("AffineGrid")
def affine_grid(call: Call, made: Body) -> str:
    """theta [N, axes, axes + 1] times the homogeneous coordinates of all pixels of an image of constant size."""
    n, _, *sizes = (int(v) for v in np.ravel(call.constant(1)))
    align = bool(call.attributes.get("align_corners", 0))
    columns = []
    for axis, size in enumerate(sizes):
        line = np.linspace(-1, 1, size) if align and size > 1 else (2 * np.arange(size) + 1) / size - 1
        shape = [-1 if k == axis else 1 for k in range(len(sizes))]
        columns.append(np.broadcast_to(line.reshape(shape), sizes).reshape(-1))
    points = made.numbers(np.stack([*reversed(columns), np.ones(math.prod(sizes))], 1))
    found = made.op("MatMul", points, made.op("Transpose", "x0", perm=[0, 2, 1]))
    return made.viewed(found, [n, *sizes, len(sizes)])
