"""Gradients of Conv and ConvTranspose (Dumoulin and Visin, A guide to convolution arithmetic, 2016).

The input gradient of one is the other. The weight gradient has several forms of different speed and temporary memory;
the lowering table picks one by device and size.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planc.errors import ModelError
from planc.kernels.convolution import CONVOLUTION, INPUT_GRADIENT, WEIGHT_GRADIENT
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Builder, Shape, Var
from planc.training.emit.forms import ConvSize
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.reductions import channel_sum
from planc.training.rules.shape import spread
from planc.training.rules.windows import Window, window_of


def group_of(node: ForwardNode) -> int:
    """The groups of channels of a Conv or ConvTranspose. Raises ModelError where they do not divide the channels."""
    x, w, group = node.input(0), node.input(1), int(node.attribute("group", 1))
    # X's channels are C; W has [O, C / group, ...], of a ConvTranspose [C, O / group, ...]
    held = w.shape[0] if node.op_type == "ConvTranspose" else w.shape[1] * group
    if group < 1 or held != x.shape[1] or w.shape[0] % group:
        raise ModelError(
            f"{node.where}: {group} groups do not divide {x.shape[1]} channels as weights of {list(w.shape)} have them"
        )
    return group


@gradient("Conv")
def conv(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """X [N, C, ...], W [O, C / group, ...], dY [N, O, ...]. The weight first: its temporaries die before dX is made."""
    x, w, dy = node.input(0), node.input(1), sole(grads)
    window, group = window_of(node, w.shape[2:], x.shape[2:]), group_of(node)
    if _has_kernels(node, x):
        return _by_kernels(b, node, x, dy, window)
    found = _bias_gradient(b, node, dy)
    if 1 in node.wanted:
        found[1] = weight_gradient(b, node, x, dy, window, group)
    if 0 in node.wanted:
        found[0] = input_gradient(b, node, dy, w, window, x.shape)
    return found


@gradient("ConvTranspose")
def conv_transpose(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """X [N, C, ...], W [C, O / group, ...], dY [N, O, ...]: dX = Conv(dY, W); dW as of a Conv from dY to X."""
    x, w, dy = node.input(0), node.input(1), sole(grads)
    window, group = transpose_window(node, x, w), group_of(node)
    if _has_kernels(node, x) and _reaches(window, dy, x):
        return _transposed_by_kernels(b, node, x, dy, window)
    found = _bias_gradient(b, node, dy)
    if not _reaches(window, dy, x):
        window, dy = _as_read(b, window, dy, x)
    if 1 in node.wanted:
        found[1] = weight_gradient(b, node, dy, x, window, group)
    if 0 in node.wanted:
        found[0] = b.op("Conv", [dy, w], x.shape, group=group, **window.attributes())
    return found


@forward_rule("ConvTranspose")
def lower_conv_transpose(b: Builder, node: ForwardNode) -> ForwardResult:
    """The operator itself, or where the device does not repeat it, the form that its table asks for.

    An output padding of a stride or more, which ONNX Runtime refuses, is cropped less at the end, or zeros behind it.
    """
    x, w, y = node.input(0), node.input(1), node.output
    window, group = transpose_window(node, x, w), group_of(node)
    biased = node.has_input(2)
    if _has_kernels(node, x) and _reaches(window, y, x):
        named = None if biased else y.name
        (made,) = b.kernel(INPUT_GRADIENT, [x, w], [named], size=y.shape[2:], **_settings(window, group))
        if biased:
            b.add(made, b.reshape(node.input(2), (1, y.shape[1], *[1] * (y.rank - 2))), name=y.name)
    elif node.table.conv_input == "transpose":
        padding = window.output_padding(y.shape[2:], x.shape[2:])
        beyond = [max(0, p - s + 1) for p, s in zip(padding, window.strides, strict=True)]
        inner = [p - more for p, more in zip(padding, beyond, strict=True)]
        uncropped = [min(more, end) for more, end in zip(beyond, window.after, strict=True)]
        after = tuple(end - less for end, less in zip(window.after, uncropped, strict=True))
        beyond = [more - less for more, less in zip(beyond, uncropped, strict=True)]
        settings = {**replace(window, after=after).attributes(), "output_padding": inner, "group": group}
        if not any(beyond):
            b.op("ConvTranspose", list(node.inputs), y.shape, name=y.name, **settings)
            return ForwardResult()
        reached = (*y.shape[:2], *(n - more for n, more in zip(y.shape[2:], beyond, strict=True)))
        made = b.op("ConvTranspose", [x, w], reached, **settings)
        bias = node.input(2) if biased else b.full((y.shape[1],), 0.0, y.dtype)
        padded = b.pad(made, [0] * y.rank, [0, 0, *beyond])
        b.add(padded, b.reshape(bias, (1, y.shape[1], *[1] * (y.rank - 2))), name=y.name)
    elif biased:
        bias = b.reshape(node.input(2), (1, y.shape[1], *[1] * (y.rank - 2)))
        b.add(input_gradient(b, node, x, w, window, y.shape), bias, name=y.name)
    else:
        input_gradient(b, node, x, w, window, y.shape, name=y.name)
    return ForwardResult()


def _as_read(b: Builder, window: Window, large: Var, small: Var) -> tuple[Window, Var]:
    """The window and the part of `large` with which a Conv makes exactly `small`.

    An output padding takes from what is cropped at the end, and may reach beyond every window.
    """
    ends = [(n - 1) * window.strides[i] + window.extent(i) - window.before[i] for i, n in enumerate(small.shape[2:])]
    sizes = large.shape[2:]
    part = b.slice(large, {2 + i: (0, min(n, end), 1) for i, (n, end) in enumerate(zip(sizes, ends, strict=True))})
    after = tuple(max(0, end - n) for n, end in zip(sizes, ends, strict=True))
    return replace(window, after=after), part


def _has_kernels(node: ForwardNode, x: Var) -> bool:
    """Whether the device has kernels of planc's own for a convolution of X [N, C, ...]."""
    return node.table.computes(x.dtype) and 3 <= x.rank <= 5 and x.dtype in C_TYPES


def _bias_gradient(b: Builder, node: ForwardNode, dy: Var) -> dict[int, Var]:
    """The sum of dY over all axes but that of the channels, where it is wanted, by its position."""
    return {2: b.reshape(channel_sum(b, node.table, dy), node.input(2).shape)} if 2 in node.wanted else {}


def _settings(window: Window, group: int) -> dict[str, Any]:
    """The attributes of planc's convolutions."""
    pads = (*window.before, *window.after)
    return {"strides": window.strides, "pads": pads, "dilations": window.dilations, "group": group}


def _reaches(window: Window, large: Var, small: Var) -> bool:
    """Whether a Conv with this window takes `large` to the size of `small`, as kernels of its gradients assume."""
    sizes = zip(large.shape[2:], small.shape[2:], strict=True)
    return all(
        (n + window.before[i] + window.after[i] - window.extent(i)) // window.strides[i] + 1 == m
        for i, (n, m) in enumerate(sizes)
    )


def _by_kernels(b: Builder, node: ForwardNode, x: Var, dy: Var, window: Window) -> Gradients:
    w, settings = node.input(1), _settings(window, group_of(node))
    found = _bias_gradient(b, node, dy)
    if 1 in node.wanted:
        (found[1],) = b.kernel(WEIGHT_GRADIENT, [x, dy], kernel=w.shape[2:], **settings)
    if 0 in node.wanted:
        (found[0],) = b.kernel(INPUT_GRADIENT, [dy, w], size=x.shape[2:], **settings)
    return found


def _transposed_by_kernels(b: Builder, node: ForwardNode, x: Var, dy: Var, window: Window) -> Gradients:
    w, settings = node.input(1), _settings(window, group_of(node))
    found = _bias_gradient(b, node, dy)
    if 1 in node.wanted:
        (found[1],) = b.kernel(WEIGHT_GRADIENT, [dy, x], kernel=w.shape[2:], **settings)
    if 0 in node.wanted:
        (found[0],) = b.kernel(CONVOLUTION, [dy, w], **settings)
    return found


def input_gradient(
    b: Builder, node: ForwardNode, dy: Var, w: Var, window: Window, shape: Shape, name: str | None = None
) -> Var:  # fmt: skip
    """dX [N, C, ...] of the Conv with weight W [O, C / group, ...], in the form the table picks."""
    group = group_of(node)
    if node.table.conv_input == "transpose":
        padding = window.output_padding(shape[2:], dy.shape[2:])
        settings = {**window.attributes(), "output_padding": padding, "group": group}
        return b.op("ConvTranspose", [dy, w], shape, name=name, **settings)
    return _flipped_conv(b, dy, _exchanged(b, w, group), window, shape, group, name)


def _flipped_conv(
    b: Builder, dy: Var, w: Var, window: Window, shape: Shape, group: int, name: str | None
) -> Var:  # fmt: skip
    """A stride-1 Conv of dY, spread by the stride, with the turned kernel; of a 1x1 kernel, spread afterwards."""
    strides = {2 + i: s for i, s in enumerate(window.strides)}
    pointwise = all(k == 1 for k in window.kernel) and not any((*window.before, *window.after))
    late = pointwise and max(window.strides) > 1 and name is None
    spaced = dy if late else spread(b, dy, strides)
    reach = [window.extent(i) - 1 for i in range(len(window.kernel))]
    sizes = spaced.shape[2:] if late else shape[2:]
    before = [r - p for r, p in zip(reach, window.before, strict=True)]
    after = [n - m + p for n, m, p in zip(sizes, spaced.shape[2:], window.before, strict=True)]
    cropped = b.pad(spaced, [0, 0, *(min(0, v) for v in before)], [0, 0, *(min(0, v) for v in after)])
    product = b.op(
        "Conv", [cropped, w], (*shape[:2], *sizes), name=None if late else name, group=group,
        kernel_shape=window.kernel, dilations=window.dilations, pads=[max(0, v) for v in (*before, *after)],
    )  # fmt: skip
    if not late:
        return product
    grown = spread(b, product, strides)
    return b.pad(grown, [0] * len(shape), [n - m for n, m in zip(shape, grown.shape, strict=True)])


def _exchanged(b: Builder, w: Var, group: int) -> Var:
    """[O, C / group, k...] as [C, O / group, k...], every kernel turned around."""
    out, share, *kernel = w.shape
    split = b.reshape(w, (group, out // group, share, *kernel))
    swapped = b.transpose(split, (0, 2, 1, *range(3, split.rank)))
    return b.flip(b.reshape(swapped, (group * share, out // group, *kernel)), range(2, w.rank))


def transpose_window(node: ForwardNode, x: Var, w: Var) -> Window:
    """The window of the Conv that this ConvTranspose is the input gradient of."""
    return window_of(node, w.shape[2:], node.output.shape[2:], transposed_input=x.shape[2:])


@dataclass(frozen=True)
class WeightGradient:
    """dW [O, C / group, k...] of Y = Conv(X, W), from X [N, C, ...] and dY [N, O, ...]."""

    b: Builder
    x: Var
    dy: Var
    window: Window
    group: int

    def padding_after(self) -> list[int]:
        """Zeros needed behind X so that every tap of every output position lies inside; negative when X is longer."""
        w, shapes = self.window, zip(self.x.shape[2:], self.dy.shape[2:], strict=True)
        return [
            w.dilations[i] * (w.kernel[i] - 1) + w.strides[i] * (out - 1) + 1 - size - w.before[i]
            for i, (size, out) in enumerate(shapes)
        ]

    def padded(self, x: Var) -> Var:
        after = [max(0, e) for e in self.padding_after()]
        return self.b.pad(x, [0, 0, *self.window.before], [0, 0, *after])

    def tap(self, padded: Var, offset: tuple[int, ...]) -> Var:
        """The elements of padded X that meet kernel position `offset`, one per output position."""
        return self.b.slice(padded, self.ranges(offset))

    def ranges(self, offset: tuple[int, ...]) -> dict[int, tuple[int, int, int]]:
        """{axis: (start, end, step)} of the elements of `tap`."""
        ranges = {}
        for i, out in enumerate(self.dy.shape[2:]):
            start = offset[i] * self.window.dilations[i]
            ranges[2 + i] = (start, start + self.window.strides[i] * (out - 1) + 1, self.window.strides[i])
        return ranges

    def channel_major(self, a: Var) -> Var:
        """[N, C, ...] as [C, N, ...]."""
        return self.b.transpose(a, (1, 0, *range(2, a.rank)))

    def offsets(self) -> list[tuple[int, ...]]:
        return list(np.ndindex(*self.window.kernel))

    def columns(self) -> Var:
        """One Gemm over all kernel positions (im2col; Chellapilla et al., 2006): a k-fold temporary."""
        return self._gemms([self.offsets()])

    def rows(self) -> Var:
        """One Gemm per kernel row: a temporary as many times X as the kernel is wide."""
        width = self.window.kernel[-1]
        offsets = self.offsets()
        return self._gemms([offsets[i : i + width] for i in range(0, len(offsets), width)])

    def taps(self) -> Var:
        """One Gemm [O, N L] x [N L, C] per kernel position: no multiple of X is ever made."""
        return self._gemms([[offset] for offset in self.offsets()])

    def _gemms(self, batches: list[list[tuple[int, ...]]]) -> Var:
        """One Gemm per batch of kernel positions, over the batch's taps side by side."""
        b, out, channels = self.b, self.dy.shape[1], self.x.shape[1]
        positions = self.dy.size // out
        rows = b.reshape(self.channel_major(self.dy), (out, positions))
        padded = self.padded(self.channel_major(self.x))
        parts = []
        for batch in batches:
            taps = [b.reshape(self.tap(padded, offset), (channels, 1, positions)) for offset in batch]
            columns = b.reshape(b.concat(taps, 1), (channels * len(batch), positions))
            parts.append(b.reshape(b.gemm(rows, columns, trans_b=True), (out, channels, len(batch))))
        return b.concat(parts, 2)

    def patches(self) -> Var:
        """Windows that neither overlap nor leave gaps: the columns are a permutation of X, then one Gemm."""
        b, out, (samples, channels) = self.b, self.dy.shape[1], self.x.shape[:2]
        kernel, spatial = self.window.kernel, self.dy.shape[2:]
        split = [d for pair in zip(spatial, kernel, strict=True) for d in pair]
        x = b.slice(self.x, {2 + i: (0, n * k, 1) for i, (n, k) in enumerate(zip(spatial, kernel, strict=True))})
        grid = b.reshape(x, (samples, channels, *split))
        places = range(len(kernel))
        perm = [1, *(3 + 2 * i for i in places), 0, *(2 + 2 * i for i in places)]
        positions = self.dy.size // out
        columns = b.reshape(b.transpose(grid, perm), (channels * math.prod(kernel), positions))
        return b.gemm(b.reshape(self.channel_major(self.dy), (out, positions)), columns, trans_b=True)

    def matmul(self) -> Var:
        """1x1 kernels: a batched product per sample, then the sum over samples."""
        b, (samples, out) = self.b, self.dy.shape[:2]
        channels, positions = self.x.shape[1], math.prod(self.dy.shape[2:])
        x = b.reshape(self.tap(self.padded(self.x), (0,) * len(self.window.kernel)), (samples, channels, positions))
        product = b.matmul(b.reshape(self.dy, (samples, out, positions)), b.swap_last(x))
        return b.sum(product, [0], keepdims=False)

    def gathered(self) -> Var:
        """The columns picked by one Gather of precomputed positions, then a product per sample and the samples' sum."""
        b, (samples, out), channels = self.b, self.dy.shape[:2], self.x.shape[1]
        padded = self.padded(self.x)
        places = np.arange(math.prod(padded.shape[2:]), dtype=np.int32).reshape(padded.shape[2:])
        taps = [places[tuple(slice(*r) for r in self.ranges(offset).values())] for offset in self.offsets()]
        positions, found = math.prod(self.dy.shape[2:]), b.constant(np.stack(taps).reshape(-1))
        flat = b.reshape(padded, (samples, channels, places.size))
        picked = b.op("Gather", [flat, found], (samples, channels, len(taps) * positions), axis=2)
        columns = b.reshape(picked, (samples, channels * len(taps), positions))
        product = b.matmul(columns, b.swap_last(b.reshape(self.dy, (samples, out, positions))))
        return b.transpose(b.sum(product, [0], keepdims=False), (1, 0))

    def conv(self) -> Var:
        """A Conv of the channel-major X with dY as its kernel, strides and dilations exchanged; groups as batches."""
        b, w, group = self.b, self.window, self.group
        samples = self.x.shape[0]
        out, share = self.dy.shape[1], self.x.shape[1] // self.group
        if group == 1:
            x = self.channel_major(self.x)
        else:
            split = b.reshape(self.x, (samples, group, share, *self.x.shape[2:]))
            swapped = b.transpose(split, (2, 1, 0, *range(3, split.rank)))
            x = b.reshape(swapped, (share, group * samples, *self.x.shape[2:]))
        excess = self.padding_after()
        after = [max(0, e) for e in excess]
        spatial = [k + max(0, -e) // w.dilations[i] for i, (k, e) in enumerate(zip(w.kernel, excess, strict=True))]
        product = b.op(
            "Conv", [x, self.channel_major(self.dy)], (share, out, *spatial),
            strides=w.dilations, dilations=w.strides, pads=[*w.before, *after], group=group,
        )  # fmt: skip
        cropped = b.slice(product, {2 + i: (0, k, 1) for i, k in enumerate(w.kernel)})
        return b.transpose(cropped, (1, 0, *range(2, cropped.rank)))


def weight_gradient(b: Builder, node: ForwardNode, x: Var, dy: Var, window: Window, group: int) -> Var:
    """dW of the Conv that takes X to dY's shape, in the form the table picks."""
    size = ConvSize(
        batch=x.shape[0], channels_in=x.shape[1], channels_out=dy.shape[1], group=group, kernel=window.kernel,
        output=dy.shape[2:], strides=window.strides, dilations=window.dilations, pads=(*window.before, *window.after),
    )  # fmt: skip
    weight = WeightGradient(b, x, dy, window, group)
    forms = {
        "taps": weight.taps, "rows": weight.rows, "columns": weight.columns, "patches": weight.patches,
        "matmul": weight.matmul, "conv": weight.conv, "gathered": weight.gathered,
    }  # fmt: skip
    return b.reshape(forms[node.table.conv_weight(size)](), (dy.shape[1], x.shape[1] // group, *window.kernel))
