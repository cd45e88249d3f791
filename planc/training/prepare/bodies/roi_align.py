"""Averages of bilinear samples in regions of interest (He et al., Mask R-CNN, 2017)."""

import itertools
import math

import numpy as np
from onnx import TensorProto

from planc.training.prepare.bodies.body import Body, Call, body


@body("RoiAlign")
def roi_align(call: Call, made: Body) -> str:
    """X [N, C, H, W], regions [R, 4], the sample of each [R] -> [R, C, height, width].

    Raises ModelError for maxima, and for a number of samples that depends on the regions (sampling_ratio 0).
    """
    if call.attributes.get("mode", "avg") != "avg":
        raise call.refuse("the gradient of mode 'max' is not supported; use 'avg'")
    count = int(call.attributes.get("sampling_ratio", 0))
    if not count:
        raise call.refuse("with sampling_ratio 0 the regions decide how many samples are taken; give a number")
    n, channels, *sizes = call.shape(0)
    regions = call.shape(1)[0]
    out = [int(call.attributes.get(k, 1)) for k in ("output_height", "output_width")]
    taps = [_taps(call, made, axis, sizes[axis], out[axis], count) for axis in (0, 1)]
    rows = made.viewed(made.op("Transpose", "x0", perm=[0, 2, 3, 1]), [n * math.prod(sizes), channels])
    base = made.mul(
        made.viewed(made.op("Cast", "x2", to=TensorProto.INT64), [regions, 1, 1]), _whole(made, math.prod(sizes))
    )
    found = ""
    for (y, high), (x, wide) in itertools.product(*taps):
        line = made.mul(made.viewed(y, [regions, -1, 1]), _whole(made, sizes[1]))
        places = made.add(made.add(line, made.viewed(x, [regions, 1, -1])), base)
        weight = made.mul(made.viewed(high, [regions, -1, 1]), made.viewed(wide, [regions, 1, -1]))
        values = made.op("Gather", rows, places, axis=0)
        term = made.mul(values, made.op("Unsqueeze", weight, made.ints([3])))
        found = made.add(found, term) if found else term
    parts = made.viewed(found, [regions, out[0], count, out[1], count, channels])
    mean = made.op("ReduceMean", parts, made.ints([2, 4]), keepdims=0)
    return made.op("Transpose", mean, perm=[0, 3, 1, 2])


def _whole(made: Body, number: int) -> str:
    return made.constant(np.array(number, np.int64))


def _taps(call: Call, made: Body, axis: int, size: int, out: int, count: int) -> list[tuple[str, str]]:
    """(index, weight) [R, out count] of the two pixels around every sample along one axis."""
    half = call.attributes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale = float(call.attributes.get("spatial_scale", 1.0))
    start, end = (
        made.shifted(made.scaled(made.sliced("x1", 1, i, i + 1), scale), -0.5 * half) for i in (1 - axis, 3 - axis)
    )
    extent = made.op("Sub", end, start)
    if not half:
        extent = made.op("Max", extent, made.numbers([[1.0]]))
    steps = made.numbers(((np.arange(out * count) + 0.5) / (out * count))[None])
    at = made.add(start, made.mul(extent, steps))
    low, high = made.op("GreaterOrEqual", at, made.numbers(-1.0)), made.op("LessOrEqual", at, made.numbers(size))
    within = made.op("Cast", made.op("And", low, high), to=made.dtype)
    at = made.op("Clip", at, made.numbers(0.0), made.numbers(size - 1.0))
    floor = made.op("Floor", at)
    share = made.op("Sub", at, floor)
    after = made.op("Min", made.shifted(floor, 1), made.numbers(np.full((1, 1), size - 1.0)))
    weights = (made.op("Sub", made.numbers(1), share), share)
    return [
        (made.op("Cast", place, to=TensorProto.INT64), made.mul(weight, within))
        for place, weight in zip((floor, after), weights, strict=True)
    ]
