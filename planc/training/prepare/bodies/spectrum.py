"""Fourier transforms as products with the matrices of cosines and sines; complex numbers are pairs on the last axis."""

import math

import numpy as np

from planc.training.prepare.bodies.body import Body, Call, body

_LARGEST = 1 << 13
"""Longest transform written as a product: its matrix of float32 pairs has 512 MiB."""


def _matrix(rows: int, length: int, columns: int, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part [rows, columns] of exp(-+ 2 pi i jk / length), the inverse one divided by the length."""
    angle = 2 * math.pi * (np.outer(np.arange(rows), np.arange(columns)) % length) / length
    scale = 1 / length if inverse else 1.0
    return np.cos(angle) * scale, np.sin(angle) * (scale if inverse else -scale)


def _doubled(matrix: tuple[np.ndarray, np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of half a spectrum: rows whose mirror image is missing count twice."""
    rows = np.arange(matrix[0].shape[0])
    weights = np.where((rows == 0) | (2 * rows == length), 1.0, 2.0)[:, None]
    return matrix[0] * weights, matrix[1] * weights


@body("DFT")
def dft(call: Call, made: Body) -> str:
    """[..., N, ..., 1 or 2] along one axis; onesided keeps the first half.

    Raises ModelError for transforms longer than 8,192 and for a length that is computed.
    """
    shape = call.shape(0)
    listed = int(np.ravel(call.constant(2))[0]) if call.has(2) else int(call.attributes.get("axis", -2))
    axis = (listed if call.version >= 20 else int(call.attributes.get("axis", 1))) % len(shape)
    inverse = bool(call.attributes.get("inverse", 0))
    onesided = bool(call.attributes.get("onesided", 0))
    back_to_real = onesided and inverse
    length = 2 * (shape[axis] - 1) if back_to_real else shape[axis]
    length = int(np.ravel(call.constant(1))[0]) if call.has(1) else length
    if length > _LARGEST:
        raise call.refuse(f"a transform of {length} points; at most {_LARGEST} are written as a product")
    rows = min(shape[axis], length // 2 + 1 if back_to_real else length)
    columns = length // 2 + 1 if onesided and not inverse else length
    matrix = _matrix(rows, length, columns, inverse)
    if back_to_real:
        matrix = _doubled(matrix, length)
    rest = [i for i in range(len(shape) - 1) if i != axis]
    moved = made.op("Transpose", "x0", perm=[len(shape) - 1, *rest, axis])
    cut = made.sliced(moved, len(shape) - 1, 0, rows) if rows < shape[axis] else moved
    parts = [made.viewed(made.sliced(cut, 0, i, i + 1), [-1, rows]) for i in range(shape[-1])]
    found = _transformed(made, parts, matrix)[: 1 if back_to_real else 2]
    full = [made.viewed(part, [1, *(shape[i] for i in rest), columns]) for part in found]
    back = [1 + rest.index(i) if i != axis else len(shape) - 1 for i in range(len(shape) - 1)]
    return made.op("Transpose", made.op("Concat", *full, axis=0), perm=[*back, 0])


def _transformed(made: Body, parts: list[str], matrix: tuple[np.ndarray, np.ndarray]) -> tuple[str, str]:
    """Real and imaginary part of rows [R, N], given by one part or two, times the matrix."""
    cosine, sine = (made.numbers(part) for part in matrix)
    real, imaginary = made.op("MatMul", parts[0], cosine), made.op("MatMul", parts[0], sine)
    if len(parts) == 2:
        real = made.op("Sub", real, made.op("MatMul", parts[1], sine))
        imaginary = made.add(imaginary, made.op("MatMul", parts[1], cosine))
    return real, imaginary


@body("STFT")
def stft(call: Call, made: Body) -> str:
    """[B, L, 1 or 2] cut into frames, weighted by the window, each transformed: [B, frames, bins, 2].

    Raises ModelError where the step or the length of frames is computed.
    """
    batch, length, *last = call.shape(0)
    parts_count, step = (last[0] if last else 1), int(np.ravel(call.constant(1))[0])
    width = int(np.ravel(call.constant(3))[0]) if call.has(3) else call.shape(2)[0]
    if width > _LARGEST:
        raise call.refuse(f"frames of {width} points; at most {_LARGEST} are written as a product")
    count = (length - width) // step + 1
    places = made.constant(np.arange(count)[:, None] * step + np.arange(width)[None, :])
    onesided = bool(call.attributes.get("onesided", 1)) and parts_count == 1
    columns = width // 2 + 1 if onesided else width
    moved = made.op("Transpose", made.viewed("x0", [batch, length, parts_count]), perm=[2, 0, 1])
    parts = []
    for i in range(parts_count):
        signal = made.viewed(made.sliced(moved, 0, i, i + 1), [batch, length])
        frames = made.op("Gather", signal, places, axis=1)
        parts.append(made.viewed(made.mul(frames, "x2") if call.has(2) else frames, [-1, width]))
    real, imaginary = _transformed(made, parts, _matrix(width, width, columns, False))
    full = [made.viewed(part, [batch, count, columns, 1]) for part in (real, imaginary)]
    return made.op("Concat", *full, axis=3)
