"""Scatters of slices that combine, as scatters of elements, which ONNX Runtime adds in a fixed order on the CPU."""

import math

import numpy as np

from planc.training.prepare.bodies.body import Body, Call, body


@body("ScatterND")
def scatter_nd(call: Call, made: Body) -> str:
    """Updates combined into rows of the data, which lie at flat positions computed from the indices."""
    shape, index = call.shape(0), call.shape(1)
    depth, count = index[-1], math.prod(index[:-1])
    lead, width = math.prod(shape[:depth]), math.prod(shape[depth:])
    sizes = made.ints(shape[:depth])
    rows = made.viewed("x1", [count, depth])
    wrapped = made.op("Where", made.op("Less", rows, made.ints([0])), made.op("Add", rows, sizes), rows)
    strides = made.ints([math.prod(shape[axis + 1 : depth]) for axis in range(depth)])
    flat = made.op("ReduceSum", made.op("Mul", wrapped, strides), made.ints([1]), keepdims=1)
    places = made.op("Expand", flat, made.ints([count, width]))
    data, updates = made.viewed("x0", [lead, width]), made.viewed("x2", [count, width])
    reduction = call.attributes.get("reduction", "none")
    joined = made.op("ScatterElements", data, places, updates, axis=0, reduction=reduction)
    return made.viewed(joined, shape)


@body("Col2Im")
def col2im(call: Call, made: Body) -> str:
    """Every window's value added to the pixel that it came from, at constant positions."""
    image, block = ([int(v) for v in np.ravel(call.constant(i))] for i in (1, 2))
    dims = len(image)
    strides, dilations = (list(call.attributes.get(k, [1] * dims)) for k in ("strides", "dilations"))
    pads = list(call.attributes.get("pads", [0] * 2 * dims))
    n, columns, length = call.shape(0)
    channels = columns // math.prod(block)
    padded = [size + pads[i] + pads[dims + i] for i, size in enumerate(image)]
    counts = [(padded[i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(dims)]
    flat = np.zeros((*block, *counts), np.int64)
    for i in range(dims):
        at = np.arange(block[i])[:, None] * dilations[i] + np.arange(counts[i])[None, :] * strides[i]
        axes = [1] * 2 * dims
        axes[i], axes[dims + i] = block[i], counts[i]
        flat = flat * padded[i] + at.reshape(axes)
    if math.prod(counts) != length:
        raise call.refuse(f"{length} columns, but the image has {math.prod(counts)} windows")
    rows = made.viewed(made.op("Transpose", made.viewed("x0", [n * channels, -1]), perm=[1, 0]), [-1, n * channels])
    zeros = made.numbers(np.zeros((math.prod(padded), n * channels)))
    places = made.op("Expand", made.constant(flat.reshape(-1, 1)), made.ints([flat.size, n * channels]))
    full = made.op("ScatterElements", zeros, places, rows, axis=0, reduction="add")
    whole = made.viewed(made.op("Transpose", full, perm=[1, 0]), [n, channels, *padded])
    for i in range(dims):
        whole = made.sliced(whole, 2 + i, pads[i], pads[i] + image[i])
    return whole
