"""Which of several equivalent forms an operator is lowered to, per device kind, with the figures behind each choice.

Sources: "bench" is benchmarks/conv_gradient_forms.py on two x86 cores (ONNX Runtime 1.31.1, CPU provider); "H100" is
one H100 80 GB with TF32, ONNX Runtime 1.31.1, medians of CUDA-event times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from planc.errors import UsageError

WeightForm = Literal["matmul", "taps", "columns", "conv"]
PoolForm = Literal["scatter", "coloured-scatter"]
GatherForm = Literal["scatter-elements", "one-hot", "segmented-scan"]
RowSumForm = Literal["reduce", "gemm"]


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
    pads: tuple[int, ...]

    @property
    def pointwise(self) -> bool:
        return all(k == 1 for k in self.kernel)


@dataclass(frozen=True)
class LoweringTable:
    """The choices for one device kind."""

    device: str
    conv_weight: Callable[[ConvSize], WeightForm]
    max_pool: PoolForm
    gather: Callable[[int, int], GatherForm]
    """(number of indices, rows of the table) -> form."""
    row_sum: RowSumForm


def _cpu_conv_weight(size: ConvSize) -> WeightForm:
    """Grouped: the Conv form is the only one without a Gemm per group. 1x1: one Gemm. Else taps: leanest memory."""
    if size.group > 1:
        return "conv"
    return "matmul" if size.pointwise else "taps"


def _cuda_conv_weight(size: ConvSize) -> WeightForm:
    """H100, batch 32: columns .240 / Conv .167 ms at 14x14, .481 / .117 at 7x7; columns .525 / Conv 3.04 at 56x56."""
    if size.group > 1:
        return "conv"
    if size.pointwise:
        return "matmul"
    return "conv" if max(size.output) <= 14 else "columns"


CPU = LoweringTable(
    device="cpu",
    conv_weight=_cpu_conv_weight,
    max_pool="scatter",
    gather=lambda _indices, _rows: "scatter-elements",
    row_sum="reduce",
)

CUDA = LoweringTable(
    device="cuda",
    conv_weight=_cuda_conv_weight,
    max_pool="coloured-scatter",
    gather=lambda indices, rows: "one-hot" if indices * rows <= 1 << 26 else "segmented-scan",
    row_sum="gemm",
)

TABLES = {"cpu": CPU, "cuda": CUDA}


def table_for(device: str) -> LoweringTable:
    """The table of device kind `device`. Raises UsageError for a kind planc has none for."""
    if device not in TABLES:
        raise UsageError(f"no lowering table for device kind {device!r}: choose one of {', '.join(TABLES)}")
    return TABLES[device]
