"""Convolutions of one to three dimensions: forward, input gradient (a transposed convolution too), weight gradient.

X [N, C, ...], W [O, C / group, ...], Y [N, O, ...]; with `channels_last` X [N, ..., C], W [O, ..., C / group],
Y [N, ..., O], but W [O, C / group, ...] all the same with `weights_first`. `pads` are those before all spatial axes, then
those behind (Dumoulin and Visin, A guide to convolution arithmetic, 2016).
On a card cuDNN computes them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from onnx import TensorProto

from planc.kernels.body import Body
from planc.kernels.device import ConvolutionKernel, CudnnKernel, CudnnTensor, Pass, Strided
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_COMMON: Mapping[str, Attribute] = {
    "strides": (), "pads": (), "dilations": (), "group": 1, "channels_last": 0, "weights_first": 0,
}  # fmt: skip


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation that takes [N, C, ...] to [N, ..., C]."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation that takes [N, ..., C] to [N, C, ...]."""
    return (0, rank - 1, *range(1, rank - 1))


@dataclass(frozen=True)
class _Layout:
    """Where the axes of a call's operands are: of X, Y and their gradients; `weights` says it of W."""

    last: bool
    rank: int
    weights_first: bool = False

    @property
    def weights(self) -> "_Layout":
        """That of W and its gradient."""
        return _Layout(self.last and not self.weights_first, self.rank)

    def planar(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape as [N, C, ...]."""
        return tuple(shape[axis] for axis in to_first(self.rank)) if self.last else shape

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape [N, C, ...] as it lies in memory."""
        return tuple(shape[axis] for axis in to_last(self.rank)) if self.last else shape

    def read(self, body: Body, a: str) -> str:
        """An operand as [N, C, ...]."""
        return body.transpose(a, to_first(self.rank)) if self.last else a

    def write(self, body: Body, a: str) -> str:
        """A result [N, C, ...] as it lies in memory."""
        return body.transpose(a, to_last(self.rank)) if self.last else a

    def tensor(self, name: str, type_: TensorType) -> CudnnTensor:
        """The operand for cuDNN, which knows no fewer than two spatial dimensions."""
        dims, at = self.planar(type_.shape), 1
        strides = [0] * len(dims)
        order = (1, *range(len(dims) - 1, 1, -1), 0) if self.last else range(len(dims) - 1, -1, -1)
        for axis in order:
            strides[axis], at = at, at * dims[axis]
        if len(dims) == 3:
            inner = strides[2] * dims[2]
            return CudnnTensor(name, (*dims[:2], 1, dims[2]), (*strides[:2], inner, strides[2]), type_.dtype)
        return CudnnTensor(name, dims, tuple(strides), type_.dtype)


@dataclass(frozen=True)
class _Window:
    """Sizes of a call in [N, C, ...] terms: of X, of W and of Y."""

    call: Call
    x: tuple[int, ...]
    w: tuple[int, ...]

    def __post_init__(self) -> None:
        call, spatial = self.call, len(self.x) - 2
        listed = [call.ints("strides"), call.ints("dilations"), call.ints("pads")]
        lengths = [len(self.w) - 2, *map(len, listed)]
        positive = min((*listed[0], *listed[1], call.whole("group")), default=0) > 0 and min(listed[2], default=0) >= 0
        group = call.whole("group")
        if not 1 <= spatial <= 3 or lengths != [spatial, spatial, spatial, 2 * spatial] or not positive:
            raise call.refuse("one to three spatial axes, positive strides, dilations and groups, pads of both ends")
        if self.w[1] * group != self.x[1] or self.w[0] % group:
            raise call.refuse(f"weights [O, C / {group}, ...] with O a multiple of {group}")
        if min(self.y) < 1:
            raise call.refuse("a kernel that fits into the padded input")

    @property
    def y(self) -> tuple[int, ...]:
        """Shape of the result."""
        c = self.call
        strides, dilations, pads = c.ints("strides"), c.ints("dilations"), c.ints("pads")
        n = len(self.x) - 2
        reach = (self.x[2 + i] + pads[i] + pads[n + i] - dilations[i] * (self.w[2 + i] - 1) - 1 for i in range(n))
        return self.x[0], self.w[0], *(r // s + 1 if r >= 0 else 0 for r, s in zip(reach, strides, strict=True))

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the standard Conv."""
        c = self.call
        named = {name: list(c.ints(name)) for name in ("strides", "pads", "dilations")}
        return {**named, "group": c.whole("group"), "kernel_shape": list(self.w[2:])}


def _layout(call: Call) -> _Layout:
    return _Layout(bool(call.whole("channels_last")), len(call.inputs[0].shape), bool(call.whole("weights_first")))


def _of(call: Call, operand: str) -> _Layout:
    """The layout of an operand, by its name in the operator's record."""
    layout = _layout(call)
    return layout.weights if operand.endswith("w") else layout


def _two(call: Call) -> tuple[_Layout, tuple[int, ...], tuple[int, ...]]:
    """The layout of images, and the shapes of both inputs as [N, C, ...]; they must be of one type."""
    first, second = call.inputs
    if first.dtype != second.dtype or first.dtype not in _FLOATS or len(first.shape) != len(second.shape):
        raise call.refuse("two tensors of equal rank and of one type, float32, float16 or bfloat16")
    one, two = (_of(call, name).planar(t.shape) for name, t in zip(call.operator.inputs, call.inputs, strict=True))
    return _layout(call), one, two


def _read(call: Call, body: Body) -> Sequence[str]:
    """Both inputs as [N, C, ...], in float32."""
    dtype, named = call.inputs[0].dtype, zip(call.operator.inputs, body.inputs, strict=True)
    return [body.wide(_of(call, operand).read(body, name), dtype) for operand, name in named]


# --- forward


def _forward_window(call: Call) -> _Window:
    _, x, w = _two(call)
    return _Window(call, x, w)


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(call.inputs[0].dtype, _layout(call).stored(_forward_window(call).y)),)


def _forward(call: Call, body: Body) -> Sequence[str]:
    layout, dtype = _layout(call), call.inputs[0].dtype
    x, w = _read(call, body)
    y = body.op("Conv", x, w, **_forward_window(call).attributes)
    return [layout.write(body, body.narrow(y, dtype))]


# --- gradient of the input


def _input_window(call: Call) -> _Window:
    _, dy, w = _two(call)
    sizes = call.ints("size")
    window = _Window(call, (dy[0], w[1] * call.whole("group"), *sizes), w)
    if window.y != dy:
        raise call.refuse(f"a gradient of shape {list(window.y)}, as the convolution of {list(window.x)} has it")
    return window


def _input_types(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(call.inputs[0].dtype, _layout(call).stored(_input_window(call).x)),)


def _input_gradient(call: Call, body: Body) -> Sequence[str]:
    """A transposed convolution; rows that no window reaches are padding of its output."""
    layout, dtype, window = _layout(call), call.inputs[0].dtype, _input_window(call)
    dy, w = _read(call, body)
    attributes = window.attributes
    n = len(window.x) - 2
    reached = [
        (window.y[2 + i] - 1) * attributes["strides"][i]
        + attributes["dilations"][i] * (window.w[2 + i] - 1)
        + 1
        - attributes["pads"][i]
        - attributes["pads"][n + i]
        for i in range(n)
    ]
    extra = [size - got for size, got in zip(window.x[2:], reached, strict=True)]
    dx = body.op("ConvTranspose", dy, w, output_padding=extra, **attributes)
    return [layout.write(body, body.narrow(dx, dtype))]


# --- gradient of the weights


def _weight_window(call: Call) -> _Window:
    _, x, dy = _two(call)
    group = max(1, call.whole("group"))
    window = _Window(call, x, (dy[1], x[1] // group, *call.ints("kernel")))
    if window.y != dy:
        raise call.refuse(f"a gradient of shape {list(window.y)}")
    return window


def _weight_types(call: Call) -> tuple[TensorType, ...]:
    return (TensorType(call.inputs[0].dtype, _layout(call).weights.stored(_weight_window(call).w)),)


def _weight_gradient(call: Call, body: Body) -> Sequence[str]:
    """A convolution of the channel-major X with dY as its kernel, strides and dilations exchanged; groups as batches."""
    layout, dtype, window = _layout(call), call.inputs[0].dtype, _weight_window(call)
    x, dy = _read(call, body)
    group, rank, n = call.whole("group"), len(window.x), len(window.x) - 2
    strides, dilations, pads = call.ints("strides"), call.ints("dilations"), call.ints("pads")
    samples, share = window.x[0], window.w[1]
    split = body.reshape(x, (samples, group, share, *window.x[2:]))
    major = body.transpose(split, (2, 1, 0, *range(3, rank + 1)))
    image = body.reshape(major, (share, group * samples, *window.x[2:]))
    excess = [
        dilations[i] * (window.w[2 + i] - 1) + strides[i] * (window.y[2 + i] - 1) + 1 - window.x[2 + i] - pads[i]
        for i in range(n)
    ]
    product = body.op(
        "Conv", image, body.transpose(dy, (1, 0, *range(2, rank))),
        strides=list(dilations), dilations=list(strides), pads=[*pads[:n], *(max(0, e) for e in excess)], group=group,
    )  # fmt: skip
    for i, e in enumerate(excess):
        if e < 0:
            product = body.slice(product, 2 + i, 0, window.w[2 + i])
    dw = body.transpose(product, (1, 0, *range(2, rank)))
    return [layout.weights.write(body, body.narrow(dw, dtype))]


def _products(which: Pass, call: Call) -> int:
    """Of any of the three: every output sums over the weight's [C / G, ...]."""
    window = _WINDOWS[which](call)
    return math.prod(window.y) * math.prod(window.w[1:])


# --- cuDNN


def _cudnn(kind: str, call: Call) -> CudnnKernel | None:
    """cuDNN's operation; none for empty tensors and what its 32-bit sizes do not hold."""
    types = (*call.inputs, *call.outputs)
    if any(not 0 < t.size < 1 << 31 for t in types):
        return None
    names = (*call.operator.inputs, *call.operator.outputs)
    tensors = [_of(call, name).tensor(name, type_) for name, type_ in zip(names, types, strict=True)]
    n = len(call.inputs[0].shape) - 2
    pads, lead = call.ints("pads"), (0,) if n == 1 else ()
    settings = {
        "pre_padding": [*lead, *pads[:n]],
        "post_padding": [*lead, *pads[n:]],
        "stride": [*(1 for _ in lead), *call.ints("strides")],
        "dilation": [*(1 for _ in lead), *call.ints("dilations")],
    }
    return CudnnKernel(tuple(tensors[:2]), tuple(tensors[2:]), partial(_build, kind, settings), TensorProto.FLOAT)


_ARGUMENTS = {
    "conv_fprop": ("image", "weight"), "conv_dgrad": ("loss", "filter"), "conv_wgrad": ("image", "loss"),
}  # fmt: skip


def _build(kind: str, settings: Mapping[str, Any], graph: Any, tensors: Sequence[Any]) -> Sequence[Any]:
    named = dict(zip(_ARGUMENTS[kind], tensors, strict=True))
    return [getattr(graph, kind)(**named, **settings)]


# --- on the CPU


def _library(which: Pass, call: Call) -> ConvolutionKernel | None:
    """The convolution for a library of the CPU; none for empty tensors."""
    window = _WINDOWS[which](call)
    types = (*call.inputs, *call.outputs)
    if any(not t.size for t in types):
        return None
    names, group, n = (*call.operator.inputs, *call.operator.outputs), call.whole("group"), len(window.x) - 2
    named = dict(zip(names, range(3), strict=True))
    x, w, y = (named.get(a, named.get(f"d{a}", 0)) for a in "xwy")
    pads = call.ints("pads")

    def lies(k: int) -> Strided:
        layout = _of(call, names[k])
        return Strided.of(layout.planar(types[k].shape), types[k].dtype, layout.last)

    return ConvolutionKernel(
        which,
        (lies(x), _grouped(lies(w), group), lies(y)),
        (x, w, y),
        call.ints("strides"),
        call.ints("dilations"),
        (pads[:n], pads[n:]),
    )


def _grouped(w: Strided, group: int) -> Strided:
    """Weights [O, C / G, ...] as [G, O / G, C / G, ...]."""
    if group == 1:
        return w
    share = w.dims[0] // group
    return Strided((group, share, *w.dims[1:]), (share * w.strides[0], *w.strides), w.dtype)


_WINDOWS = {
    Pass.FORWARD: _forward_window, Pass.INPUT_GRADIENT: _input_window, Pass.WEIGHT_GRADIENT: _weight_window,
}  # fmt: skip


CONVOLUTION = register(
    Operator(
        "Convolution",
        ("x", "w"),
        ("y",),
        _forward_types,
        _forward,
        _COMMON,
        cuda=partial(_cudnn, "conv_fprop"),
        cpu=partial(_library, Pass.FORWARD),
        products=partial(_products, Pass.FORWARD),
    )
)
"""Y of X and W, without bias."""

INPUT_GRADIENT = register(
    Operator(
        "ConvolutionInputGradient",
        ("dy", "w"),
        ("dx",),
        _input_types,
        _input_gradient,
        {**_COMMON, "size": ()},
        cuda=partial(_cudnn, "conv_dgrad"),
        cpu=partial(_library, Pass.INPUT_GRADIENT),
        products=partial(_products, Pass.INPUT_GRADIENT),
    )
)
"""dX, whose spatial sizes are `size`, of dY and W."""

WEIGHT_GRADIENT = register(
    Operator(
        "ConvolutionWeightGradient",
        ("x", "dy"),
        ("dw",),
        _weight_types,
        _weight_gradient,
        {**_COMMON, "kernel": ()},
        cuda=partial(_cudnn, "conv_wgrad"),
        cpu=partial(_library, Pass.WEIGHT_GRADIENT),
        products=partial(_products, Pass.WEIGHT_GRADIENT),
    )
)
"""dW, whose kernel has the sizes `kernel`, of X and dY."""
