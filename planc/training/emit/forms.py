"""Which of several equivalent forms an operator is lowered to, per device kind, with the figures behind each choice.

Sources: "bench" is benchmarks/conv_gradient_forms.py on two x86 cores (ONNX Runtime 1.31.1, CPU provider); "H100" is
one H100 80 GB with TF32, ONNX Runtime 1.31.1, medians of CUDA-event times.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from onnx import TensorProto

from planc.errors import UsageError
from planc.libraries import onednn_path
from planc.registry import Registry

WeightForm = Literal["matmul", "taps", "rows", "columns", "gathered", "patches", "conv"]
InputForm = Literal["transpose", "flipped"]
PoolForm = Literal["scatter", "coloured-scatter"]
GatherForm = Literal["scatter-elements", "one-hot", "segmented-scan"]
RowSumForm = Literal["reduce", "product", "gemm"]
ChannelMeanForm = Literal["reduce", "pool"]
BatchNormForm = Literal["element-wise", "operator"]


@dataclass(frozen=True)
class ConvSize:
    """What the choice of a convolution's weight-gradient form looks at."""

    batch: int
    channels_in: int
    channels_out: int
    group: int
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def disjoint(self) -> bool:
        """Whether windows neither overlap nor skip, nor reach into padding."""
        return self.kernel == self.strides and not any(self.pads) and all(d == 1 for d in self.dilations)

    @property
    def pointwise(self) -> bool:
        return all(k == 1 for k in self.kernel)


@dataclass(frozen=True)
class OperatorForms:
    """The choices for one device kind."""

    device: str
    conv_weight: Callable[[ConvSize], WeightForm]
    conv_input: InputForm
    """Input gradient of a convolution, and a transposed convolution itself."""
    max_pool: PoolForm
    gather: Callable[[int, int], GatherForm]
    """(number of indices, rows of the table) -> form."""
    row_sum: RowSumForm
    """Sums of rows by a reduction, or by a product with a row of ones: `gemm` for sums of all elements too."""
    channel_mean: ChannelMeanForm
    """Mean of [N, C, ...] over all axes but C."""
    batch_norm: BatchNormForm
    """Input gradient of a batch-norm in training, from what is left of it at the end."""
    scatter_add_repeats: bool
    """Whether adding at colliding indices gives the same bits at every run."""
    kernels: bool = False
    """Whether the device has kernels for planc's own operators (`planc.kernels`), which then replace standard ones."""
    library: bool = False
    """Whether it has such kernels for float32 convolutions, norms, pools and GELU, at least."""

    def computes(self, dtype: int) -> bool:
        """Whether the device has kernels of planc's own for convolutions, norms and pools of this ONNX type."""
        return self.kernels or (self.library and dtype == TensorProto.FLOAT)


FEW_CHANNELS = 8
"""Below this, one Gemm per tap is too thin: [O, N L] x [N L, 3]."""


def _cpu_conv_weight(size: ConvSize) -> WeightForm:
    """The leanest form within about 1.3 times the fastest (bench, ms):

    | layer (batch, C->O, image)    | conv  | columns | rows | taps | matmul | patches |
    |-------------------------------|-------|---------|------|------|--------|---------|
    | 7x7 s2 16, 3->64, 112         | 18.5  | 27.2    | 27.6 | 64.6 |        |         |
    | 3x3 8, 3->64, 112             | 16.7  | 8.7     | 11.4 | 20.0 |        |         |
    | 3x3 32, 64->64, 28            | 148.5 | 24.3    | 29.0 | 23.3 |        |         |
    | 3x3 32, 256->256, 7           | 72.0  | 30.7    | 27.5 | 27.1 |        |         |
    | 3x3 s2 32, 64->128, 28        | 40.9  | 12.3    | 13.5 | 12.8 |        |         |
    | 1x1 16, 256->64, 28           | 43.1  |         |      | 4.6  | 6.3    |         |
    | 1x1 16, 1024->256, 7          | 16.7  |         |      | 2.9  | 6.0    |         |
    | 16x16 s16 4, 3->768, 224      | 9.5   | 11.5    | 12.0 | 50.3 |        | 12.4    |

    Grouped layers: the Conv form is the only one without a Gemm per group.
    """
    if size.group > 1:
        return "conv"
    if size.disjoint and not size.pointwise:
        return "patches"
    if size.channels_in < FEW_CHANNELS and not size.pointwise:
        return "conv" if min(size.kernel) > 3 else "columns"
    return "taps"


def _cuda_conv_weight(size: ConvSize) -> WeightForm:
    """The fastest form (H100, TF32, batch 32, ms; a Conv's time grows with the image, not with the channels):

    | layer                  | gathered | columns | conv |
    |------------------------|----------|---------|------|
    | 7x7 s2 3->64, 224      | .62      | 1.02    | 11.8 |
    | 3x3 64->64, 56         | .54      | .79     | 3.04 |
    | 3x3 s2 128->128, 56    | .39      | .57     | .60  |
    | 3x3 128->128, 28       | .30      | .42     |      |
    | 3x3 s2 256->256, 28    | .29      |         | .24  |
    | 3x3 256->256, 14       | .24      | .24     | .17  |
    | 3x3 512->512, 7        | .41      | .48     | .12  |
    """
    if size.group > 1:
        return "conv"
    if size.pointwise:
        return "matmul"
    if size.disjoint:
        return "patches"
    return "conv" if max(size.output) <= 14 else "gathered"


CPU = OperatorForms(
    device="cpu",
    conv_weight=_cpu_conv_weight,
    conv_input="transpose",
    max_pool="scatter",
    gather=lambda _indices, _rows: "scatter-elements",
    row_sum="reduce",
    channel_mean="reduce",
    batch_norm="element-wise",
    scatter_add_repeats=True,
)

CUDA = OperatorForms(
    device="cuda",
    conv_weight=_cuda_conv_weight,
    # cuDNN picks algorithms for the transposed convolution that add by atomics: GoogLeNet, DenseNet-121 and U-Net at
    # small images differed from run to run (H100, benchmarks/gpu/reproducibility.py). The Conv of the turned kernel
    # takes .115 ms for .104 at 3x3 64->64 56x56 and .094 for .080 at 512->512 7x7.
    conv_input="flipped",
    # ScatterElements repeats when no two indices are equal, so the windows are taken in turns that do not overlap.
    max_pool="coloured-scatter",
    # H100, tokens x vocabulary at width 768, ms with launches: scatter .10-.38, never repeatable; one-hot .15 at
    # 1,024 x 2,000, .53 at 4,096 x 8,000, 5.99 at 8,192 x 50,257; segmented scan .93, 1.10, 2.02.
    gather=lambda indices, rows: "one-hot" if indices * rows <= 1 << 26 else "segmented-scan",
    # H100, bias of [4096, 3072]: ReduceSum .048 ms and not repeatable, Gemm with a row of ones .029.
    row_sum="gemm",
    # H100, [32, 256, 56, 56]: GlobalAveragePool and a mean over N take 1.7 times the one-pass memory floor, ReduceMean
    # over (0, 2, 3) 17.5 times.
    channel_mean="pool",
    # One pass instead of two: .087 ms for .146 on [32, 256, 56, 56].
    batch_norm="operator",
    scatter_add_repeats=False,
    kernels=True,
)

# [2048, 256], ms, one thread and two: ReduceSum .13 and .10 (.58 in a step of BERT), product with ones .07 and .04.
ONEDNN = replace(CPU, library=True, row_sum="product")
"""For a CPU with oneDNN: it computes convolutions, batch-norms and pools, channels last, layer-norms and GELU (figures:
docs/results/cpu_speed.md)."""

TABLES: Registry[str, OperatorForms] = Registry("the operator forms of")
TABLES.add([CPU.device], CPU)
TABLES.add([CUDA.device], CUDA)
TABLES.add(["onednn"], ONEDNN)


def suited(device: str) -> str:
    """The forms that suit a device kind on this machine: those for oneDNN on a CPU where it is installed."""
    return "onednn" if device == CPU.device and onednn_path() else device


def table_for(device: str) -> OperatorForms:
    """The table of device kind `device`. Raises UsageError for a kind planc has none for."""
    if device not in TABLES:
        raise UsageError(f"no operator forms for device kind {device!r}: choose one of {', '.join(TABLES)}")
    return TABLES[device]
