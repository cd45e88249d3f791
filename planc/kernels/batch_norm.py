"""Batch-norm in training (Ioffe and Szegedy, 2015), with the ReLU or the addition and ReLU behind it: three launches over
two passes, forward and backward.

X [N, C, ...], or [N, ..., C] with `channels_last`, which the kernels are for; scale, bias, mean and the biased variance [C]
are float32 whatever X is. Kept for the gradient: X and the two vectors, and Y where something was added before the ReLU.
"""

from collections.abc import Mapping, Sequence

from onnx import TensorProto

from planc.kernels.device import WORKSPACE, Buffer, Launch, SourceKernel
from planc.kernels.function import Body
from planc.kernels.operator import Attribute, Call, Operator, TensorType, register
from planc.kernels.source import C_TYPES, HEADER, VECTOR_BYTES, width_of

_THREADS = 256
_BLOCKS = 132 * 4
"""Blocks that a pass is cut into: four for each multiprocessor of an H100, whose figures the choice follows. It decides
the order of sums, so it is the same on every card."""

_ATTRIBUTES: Mapping[str, Attribute] = {"epsilon": 1e-5, "relu": 0, "channels_last": 0}


def _axes(call: Call, rank: int) -> tuple[int, list[int]]:
    """The channels' axis and the others."""
    axis = rank - 1 if call.int("channels_last") else 1
    return axis, [i for i in range(rank) if i != axis]


def _channels(call: Call, x: TensorType, vectors: Sequence[TensorType]) -> TensorType:
    """The type of a vector of channels, which all `vectors` must have."""
    if len(x.shape) < 2 or x.dtype not in C_TYPES:
        raise call.refuse("a float32, float16 or bfloat16 tensor [N, C, ...] first")
    expected = TensorType(TensorProto.FLOAT, (x.shape[_axes(call, len(x.shape))[0]],))
    if any(v != expected for v in vectors):
        raise call.refuse(f"float32 vectors of {expected.shape[0]} channels")
    return expected


# --- forward


def _forward_types(call: Call) -> tuple[TensorType, ...]:
    x, scale, bias, *residual = call.inputs
    vector = _channels(call, x, (scale, bias))
    if any(r != x for r in residual):
        raise call.refuse("a residual of the type of x")
    return x, vector, vector


def _column(body: Body, call: Call, vector: str, rank: int) -> str:
    """A vector of channels as it broadcasts against X."""
    axis, _ = _axes(call, rank)
    return body.reshape(vector, [-1 if i == axis else 1 for i in range(rank)])


def _inverse(body: Body, variance: str, epsilon: float) -> str:
    return body.op("Reciprocal", body.op("Sqrt", body.op("Add", variance, body.number(epsilon))))


def _normalised(body: Body, call: Call, x: str, mean: str, gain: str, bias: str, rank: int) -> str:
    centred = body.op("Sub", x, _column(body, call, mean, rank))
    return body.op("Add", body.op("Mul", centred, _column(body, call, gain, rank)), _column(body, call, bias, rank))


def _forward(call: Call, body: Body) -> Sequence[str]:
    dtype, rank = call.inputs[0].dtype, len(call.inputs[0].shape)
    x, (scale, bias), residual = body.wide(body.inputs[0], dtype), body.inputs[1:3], body.inputs[3:]
    _, others = _axes(call, rank)
    mean = body.mean(x, others)
    centred = body.op("Sub", x, mean)
    variance = body.reshape(body.mean(body.op("Mul", centred, centred), others), [-1])
    flat = body.reshape(mean, [-1])
    gain = body.op("Mul", _inverse(body, variance, call.float("epsilon")), scale)
    y = _normalised(body, call, x, flat, gain, bias, rank)
    for name in residual:
        y = body.op("Add", y, body.wide(name, dtype))
    y = body.op("Relu", y) if call.int("relu") else y
    return [body.narrow(y, dtype), flat, variance]


# --- gradient


def _gradient_types(call: Call) -> tuple[TensorType, ...]:
    dy, x, scale, bias, mean, variance, *y = call.inputs
    vector = _channels(call, x, (scale, bias, mean, variance))
    if any(t != x for t in (dy, *y)) or (y and not call.int("relu")):
        raise call.refuse("dy and y of the type of x, and y only behind a ReLU")
    return x, vector, vector, *(x for _ in y)


def _gradient(call: Call, body: Body) -> Sequence[str]:
    """dbias = sum dy, dscale = sum dy xhat, dx = gain (dy - dbias / m - xhat dscale / m), dy masked by the ReLU."""
    dtype, rank = call.inputs[1].dtype, len(call.inputs[1].shape)
    dy, x = (body.wide(name, dtype) for name in body.inputs[:2])
    scale, bias, mean, variance, *y = body.inputs[2:]
    axis, others = _axes(call, rank)
    inverse = _inverse(body, variance, call.float("epsilon"))
    gain = body.op("Mul", inverse, scale)
    zero = body.number(0.0)
    if call.int("relu"):
        kept = body.wide(y[0], dtype) if y else _normalised(body, call, x, mean, gain, bias, rank)
        dy = body.op("Where", body.op("Greater", kept, zero), dy, zero)
    xhat = body.op(
        "Mul", body.op("Sub", x, _column(body, call, mean, rank)), _column(body, call, inverse, rank)
    )  # fmt: skip
    dbias = body.reshape(body.sum(dy, others), [-1])
    dscale = body.reshape(body.sum(body.op("Mul", dy, xhat), others), [-1])
    share = body.number(call.inputs[1].shape[axis] / max(1, call.inputs[1].size))
    slope = _column(body, call, body.op("Mul", dscale, share), rank)
    level = _column(body, call, body.op("Mul", dbias, share), rank)
    inner = body.op("Sub", body.op("Sub", dy, level), body.op("Mul", xhat, slope))
    dx = body.op("Mul", inner, _column(body, call, gain, rank))
    return [body.narrow(dx, dtype), dscale, dbias, *(body.narrow(dy, dtype) for _ in y)]


# --- kernels for a card


class _Tiling:
    """How [M, C] is cut: a block is `across` threads of `width` channels each by `down` rows, over `splits` ranges of rows."""

    def __init__(self, call: Call, x: TensorType) -> None:
        self.channels = x.shape[-1]
        self.rows = x.size // self.channels
        self.width = width_of(x.nbytes // x.size, self.channels)
        vectors = self.channels // self.width
        self.across = next(n for n in (32, 16, 8, 4, 2, 1) if n <= vectors)
        self.down = _THREADS // self.across
        self.tiles = -(-vectors // self.across)
        wanted = max(1, _BLOCKS // self.tiles)
        self.share = max(self.down, -(-self.rows // wanted))
        self.splits = -(-self.rows // self.share)
        self.workspace = 8 * self.splits * self.channels
        """Two float32 numbers for each range of rows and channel."""

    def constants(self, call: Call, x: TensorType, wide: bool) -> str:
        """Their C declarations."""
        numbers = {
            "C": self.channels, "M": self.rows, "W": self.width, "ACROSS": self.across, "DOWN": self.down,
            "SPLITS": self.splits, "SHARE": self.share,
        }  # fmt: skip
        lines = [f"typedef {C_TYPES[x.dtype]} T;", *(f"static const long long {k} = {v};" for k, v in numbers.items())]
        lines.append(f"static const bool WIDE = {str(wide).lower()};")
        lines.append(f"static const float EPSILON = {call.float('epsilon')!r}f, INVERSE_M = {1 / self.rows!r}f;")
        return "\n".join(lines) + "\n"


_COMMON = r"""
typedef Vector<T, W> Packed;
DEVICE Packed fetch(const T* from) { return fetch_as<WIDE, T, W>(from); }
DEVICE void put(T* to, const Packed& v) { put_as<WIDE, T, W>(to, v); }
DEVICE float gain_of(float variance, float scale) { return (1.0f / sqrtf(variance + EPSILON)) * scale; }
#define PLACE \
  const long long c = ((long long)blockIdx.x * ACROSS + threadIdx.x % ACROSS) * W; \
  const int row = threadIdx.x / ACROSS; \
  const long long first = blockIdx.y * SHARE + row, end = blockIdx.y * SHARE + SHARE < M ? blockIdx.y * SHARE + SHARE : M;
"""

_STATISTICS = r"""
// Mean and sum of squared deviations of a range of rows: about its first row for each thread, then joined (Chan, Golub and
// LeVeque, 1983) in the order of threads.
extern "C" __global__ void __launch_bounds__(256) {name}_statistics(const T* x, float* part) {
  PLACE
  __shared__ float means[256 * W], squares[256 * W];
  __shared__ float counts[256];
  if (c < C) {
    float pivot[W], sum[W], square[W];
    float count = 0.0f;
    for (int k = 0; k < W; k++) pivot[k] = sum[k] = square[k] = 0.0f;
    if (first < end) {
      const Packed v = fetch(x + first * C + c);
      for (int k = 0; k < W; k++) pivot[k] = to_float(v.x[k]);
    }
#pragma unroll 4
    for (long long m = first; m < end; m += DOWN) {
      const Packed v = fetch(x + m * C + c);
      for (int k = 0; k < W; k++) { const float d = to_float(v.x[k]) - pivot[k]; sum[k] += d; square[k] = fmaf(d, d, square[k]); }
      count += 1.0f;
    }
    const float inverse = count > 0.0f ? 1.0f / count : 0.0f;
    for (int k = 0; k < W; k++) {
      const float mean = sum[k] * inverse;
      means[threadIdx.x * W + k] = pivot[k] + mean;
      squares[threadIdx.x * W + k] = square[k] - sum[k] * mean;
    }
    counts[threadIdx.x] = count;
  }
  for (int reach = DOWN / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (c < C && row < reach) {
      const int other = threadIdx.x + reach * ACROSS;
      const float a = counts[threadIdx.x], b = counts[other], both = a + b;
      const float share = both > 0.0f ? b / both : 0.0f;
      for (int k = 0; k < W; k++) {
        const float d = means[other * W + k] - means[threadIdx.x * W + k];
        means[threadIdx.x * W + k] += b > 0.0f ? d * share : 0.0f;
        squares[threadIdx.x * W + k] += squares[other * W + k] + (b > 0.0f ? d * d * a * share : 0.0f);
      }
      counts[threadIdx.x] = both;
    }
  }
  if (c < C && row == 0)
    for (int k = 0; k < W; k++) {
      part[blockIdx.y * C + c + k] = means[threadIdx.x * W + k];
      part[(SPLITS + blockIdx.y) * C + c + k] = squares[threadIdx.x * W + k];
    }
}
extern "C" __global__ void __launch_bounds__(256) {name}_finish(const float* part, float* mean, float* variance) {
  const long long c = blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  __shared__ float means[256], squares[256], counts[256];
  float m = 0.0f, s = 0.0f, n = 0.0f;
  if (c < C)
    for (long long k = lane; k < SPLITS; k += 32) {
      const float b = (float)(k + 1 < SPLITS ? SHARE : M - (SPLITS - 1) * SHARE), both = n + b;
      const float d = part[k * C + c] - m;
      m += d * (b / both);
      s += part[(SPLITS + k) * C + c] + d * d * n * (b / both);
      n = both;
    }
  means[threadIdx.x] = m, squares[threadIdx.x] = s, counts[threadIdx.x] = n;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) {
      const int other = threadIdx.x + reach * 8;
      const float a = counts[threadIdx.x], b = counts[other], both = a + b;
      if (b > 0.0f) {
        const float d = means[other] - means[threadIdx.x];
        means[threadIdx.x] += d * (b / both);
        squares[threadIdx.x] += squares[other] + d * d * a * (b / both);
        counts[threadIdx.x] = both;
      }
    }
  }
  if (c < C && lane == 0) { mean[c] = means[threadIdx.x]; variance[c] = squares[threadIdx.x] * INVERSE_M; }
}
"""

_APPLY = r"""
extern "C" __global__ void __launch_bounds__(256) {name}_apply(
    const T* x, const float* scale, const float* bias, {residual_parameter}T* y, const float* mean, const float* variance) {
  PLACE
  if (c >= C) return;
  float gain[W], centre[W], shift[W];
  for (int k = 0; k < W; k++) { gain[k] = gain_of(variance[c + k], scale[c + k]); centre[k] = mean[c + k]; shift[k] = bias[c + k]; }
#pragma unroll 4
  for (long long m = first; m < end; m += DOWN) {
    const Packed v = fetch(x + m * C + c);
    {residual_load}
    Packed w;
    for (int k = 0; k < W; k++) {
      float a = fmaf(to_float(v.x[k]) - centre[k], gain[k], shift[k]);
      {residual_add}
      from_float({activation}, w.x[k]);
    }
    put(y + m * C + c, w);
  }
}
"""

_SUMS = r"""
extern "C" __global__ void __launch_bounds__(256) {name}_sums(
    const T* dy, const T* x, const float* scale, const float* bias, const float* mean, const float* variance, {y_parameter}float* part) {
  PLACE
  __shared__ float left[256 * W], right[256 * W];
  float level[W], slope[W];
  for (int k = 0; k < W; k++) level[k] = slope[k] = 0.0f;
  if (c < C) {
    float gain[W], centre[W], shift[W];
    for (int k = 0; k < W; k++) { gain[k] = gain_of(variance[c + k], scale[c + k]); centre[k] = mean[c + k]; shift[k] = bias[c + k]; }
#pragma unroll 4
    for (long long m = first; m < end; m += DOWN) {
      const Packed g = fetch(dy + m * C + c), v = fetch(x + m * C + c);
      {y_load}
      for (int k = 0; k < W; k++) {
        const float d = to_float(v.x[k]) - centre[k];
        const float a = {kept} ? to_float(g.x[k]) : 0.0f;
        level[k] += a;
        slope[k] = fmaf(a, d, slope[k]);
      }
    }
  }
  for (int k = 0; k < W; k++) { left[threadIdx.x * W + k] = level[k]; right[threadIdx.x * W + k] = slope[k]; }
  for (int reach = DOWN / 2; reach > 0; reach /= 2) {
    __syncthreads();
    if (row < reach)
      for (int k = 0; k < W; k++) {
        left[threadIdx.x * W + k] += left[(threadIdx.x + reach * ACROSS) * W + k];
        right[threadIdx.x * W + k] += right[(threadIdx.x + reach * ACROSS) * W + k];
      }
  }
  if (c < C && row == 0)
    for (int k = 0; k < W; k++) {
      part[blockIdx.y * C + c + k] = left[threadIdx.x * W + k];
      part[(SPLITS + blockIdx.y) * C + c + k] = right[threadIdx.x * W + k];
    }
}
extern "C" __global__ void __launch_bounds__(256) {name}_join(const float* part, const float* variance, float* dscale, float* dbias) {
  const long long c = blockIdx.x * 8 + threadIdx.x % 8;
  const int lane = threadIdx.x / 8;
  __shared__ float left[256], right[256];
  float level = 0.0f, slope = 0.0f;
  if (c < C)
    for (long long k = lane; k < SPLITS; k += 32) { level += part[k * C + c]; slope += part[(SPLITS + k) * C + c]; }
  left[threadIdx.x] = level, right[threadIdx.x] = slope;
  for (int reach = 16; reach > 0; reach /= 2) {
    __syncthreads();
    if (lane < reach) { left[threadIdx.x] += left[threadIdx.x + reach * 8]; right[threadIdx.x] += right[threadIdx.x + reach * 8]; }
  }
  if (c < C && lane == 0) { dbias[c] = left[threadIdx.x]; dscale[c] = right[threadIdx.x] * (1.0f / sqrtf(variance[c] + EPSILON)); }
}
extern "C" __global__ void __launch_bounds__(256) {name}_spread(
    const T* dy, const T* x, const float* scale, const float* bias, const float* mean, const float* variance, {y_parameter}
    T* dx, const float* dscale, const float* dbias{out_parameter}) {
  PLACE
  if (c >= C) return;
  float gain[W], centre[W], shift[W], level[W], slope[W];
  for (int k = 0; k < W; k++) {
    gain[k] = gain_of(variance[c + k], scale[c + k]); centre[k] = mean[c + k]; shift[k] = bias[c + k];
    level[k] = dbias[c + k] * INVERSE_M;
    slope[k] = dscale[c + k] * INVERSE_M * (1.0f / sqrtf(variance[c + k] + EPSILON));
  }
#pragma unroll 4
  for (long long m = first; m < end; m += DOWN) {
    const Packed g = fetch(dy + m * C + c), v = fetch(x + m * C + c);
    {y_load}
    Packed w{out_declaration};
    for (int k = 0; k < W; k++) {
      const float d = to_float(v.x[k]) - centre[k];
      const float a = {kept} ? to_float(g.x[k]) : 0.0f;
      from_float((a - level[k] - d * slope[k]) * gain[k], w.x[k]);
      {out_element}
    }
    put(dx + m * C + c, w);
    {out_store}
  }
}
"""


def _filled(text: str, **pieces: str) -> str:
    for name, piece in pieces.items():
        text = text.replace(f"{{{name}}}", piece)
    return text


def _fits(call: Call, x: TensorType) -> bool:
    """Whether the kernels serve the call: channels last, in memory order, and something to do."""
    last = bool(call.int("channels_last")) or len(x.shape) == 2
    return last and x.size > 0 and x.dtype in C_TYPES


def _forward_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x = call.inputs[0]
    if not _fits(call, x):
        return None
    tiling, added = _Tiling(call, x), len(call.inputs) == 4
    y, mean, variance = (Buffer(len(call.inputs) + k) for k in range(3))
    grid = (tiling.tiles, tiling.splits, 1)
    source = HEADER + tiling.constants(call, x, wide) + _COMMON + _STATISTICS + _filled(
        _APPLY,
        residual_parameter="const T* residual, " if added else "",
        residual_load="const Packed r = fetch(residual + m * C + c);" if added else "",
        residual_add="a += to_float(r.x[k]);" if added else "",
        activation="relu(a)" if call.int("relu") else "a",
    )  # fmt: skip
    operands = tuple(Buffer(k) for k in range(len(call.inputs)))
    launches = (
        Launch("{name}_statistics", grid, _THREADS, (Buffer(0), Buffer(WORKSPACE)), frozenset({1})),
        Launch(
            "{name}_finish", (-(-tiling.channels // 8), 1, 1), _THREADS, (Buffer(WORKSPACE), mean, variance),
            frozenset({1, 2}),
        ),
        Launch("{name}_apply", grid, _THREADS, (*operands, y, mean, variance), frozenset({len(operands)})),
    )  # fmt: skip
    narrow = _forward_kernel(call, wide=False) if wide else None
    return SourceKernel(source, launches, tiling.workspace, alignment=VECTOR_BYTES, narrow=narrow)


def _gradient_kernel(call: Call, wide: bool = True) -> SourceKernel | None:
    x = call.inputs[1]
    if not _fits(call, x):
        return None
    tiling, added = _Tiling(call, x), len(call.inputs) == 7
    kept = "true"
    if call.int("relu"):
        kept = "to_float(p.x[k]) > 0.0f" if added else "fmaf(d, gain[k], shift[k]) > 0.0f"
    source = HEADER + tiling.constants(call, x, wide) + _COMMON + _filled(
        _SUMS,
        kept=kept,
        y_parameter="const T* y, " if added else "",
        y_load="const Packed p = fetch(y + m * C + c);" if added else "",
        out_parameter=", T* dresidual" if added else "",
        out_declaration=", q" if added else "",
        out_element="from_float(a, q.x[k]);" if added else "",
        out_store="put(dresidual + m * C + c, q);" if added else "",
    )  # fmt: skip
    operands = tuple(Buffer(k) for k in range(len(call.inputs)))
    n = len(operands)
    dx, dscale, dbias = (Buffer(n + k) for k in range(3))
    more = (Buffer(n + 3),) if added else ()
    grid, part = (tiling.tiles, tiling.splits, 1), Buffer(WORKSPACE)
    launches = (
        Launch("{name}_sums", grid, _THREADS, (*operands, part), frozenset({n})),
        Launch(
            "{name}_join", (-(-tiling.channels // 8), 1, 1), _THREADS, (part, Buffer(5), dscale, dbias),
            frozenset({2, 3}),
        ),
        Launch("{name}_spread", grid, _THREADS, (*operands, dx, dscale, dbias, *more), frozenset({n, n + 3} if added else {n})),
    )  # fmt: skip
    narrow = _gradient_kernel(call, wide=False) if wide else None
    return SourceKernel(source, launches, tiling.workspace, alignment=VECTOR_BYTES, narrow=narrow)


BATCH_NORM = register(
    Operator(
        "BatchNorm",
        ("x", "scale", "bias", "residual"),
        ("y", "mean", "variance"),
        _forward_types,
        _forward,
        _ATTRIBUTES,
        optional=1,
        saved=frozenset({"mean", "variance"}),
        cuda=_forward_kernel,
    )  # fmt: skip
)
"""y = gain (x - mean) + bias, plus the residual, through a ReLU where `relu` is 1."""

BATCH_NORM_GRADIENT = register(
    Operator(
        "BatchNormGradient",
        ("dy", "x", "scale", "bias", "mean", "variance", "y"),
        ("dx", "dscale", "dbias", "dresidual"),
        _gradient_types,
        _gradient,
        _ATTRIBUTES,
        optional=1,
        cuda=_gradient_kernel,
    )  # fmt: skip
)
"""Behind an addition and a ReLU, `y` tells where the ReLU let through, and `dresidual` is the gradient of what was added."""

__all__ = ["BATCH_NORM", "BATCH_NORM_GRADIENT"]
