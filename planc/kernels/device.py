"""What a kernel of an operator is: CUDA source and its launches, a graph for cuDNN, a computation for oneDNN. Data only.

The runtime compiles, builds, measures and launches (`planc.runtime`); nothing here needs a card or a library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Buffer:
    """An argument of a launch: the address of an operand, inputs first, then outputs, plus `offset` bytes; the workspace
    where `position` is -1."""

    position: int
    offset: int = 0


WORKSPACE = -1


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a function of the source: `grid` blocks of `block` threads with `shared` bytes of dynamic shared
    memory. All arguments are addresses; sizes are written into the source."""

    function: str
    grid: tuple[int, int, int]
    block: int
    arguments: tuple[Buffer, ...]
    writes: frozenset[int]
    """Positions in `arguments` of what it writes; it reads the others, and those of `updates` too."""
    updates: frozenset[int] = frozenset()
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Product:
    """A product of matrices by the BLAS library, whose matrices are columns one after the other: C [m, n] = op(A) op(B),
    with op(A) [m, k] and op(B) [k, n], transposed where the flags say so; added to what C holds where `add`.

    `leads` are the distances of columns in elements, `dtypes` the ONNX element types of A and B, and of C; sums are
    float32. The library's own workspace are the `scratch_bytes` at `scratch`.
    """

    a: Buffer
    b: Buffer
    c: Buffer
    sizes: tuple[int, int, int]
    transposed: tuple[bool, bool]
    leads: tuple[int, int, int]
    dtypes: tuple[int, int]
    add: bool
    scratch: Buffer
    scratch_bytes: int


@dataclass(frozen=True)
class SourceKernel:
    """CUDA C and its launches, products between them, in order, with the bytes of workspace that they share.

    `PREFIX` in the source and in the functions' names stands for a prefix that keeps kernels of one module apart.
    Products and sums are contracted only where `contract` says so.
    """

    source: str
    launches: tuple[Launch | Product, ...]
    workspace: int = 0
    contract: bool = False
    alignment: int = 1
    """Bytes that every address must be a multiple of; `narrow` serves others."""
    narrow: "SourceKernel | None" = None


@dataclass(frozen=True)
class Variants:
    """Kernels of one call that take different workspaces and need not give the same bits, by name: the first is the
    fastest, and what runs where nothing else was chosen."""

    kernels: Mapping[str, SourceKernel]


@dataclass(frozen=True, slots=True)
class CudnnTensor:
    """An operand as cuDNN's graph sees it: dimensions [N, C, ...], strides in elements, ONNX element type."""

    name: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int


@dataclass(frozen=True)
class CudnnKernel:
    """A graph for cuDNN's graph API.

    `build` takes the frontend's graph and the tensors of the operands, inputs first, then outputs, as made by it, and
    returns the frontend's tensors of the outputs. What cuDNN may choose from are its engines: which of them, is
    measured by the profiler and pinned in the plan. Engines that do not repeat their bits are left out.
    """

    inputs: tuple[CudnnTensor, ...]
    outputs: tuple[CudnnTensor, ...]
    build: Callable[[Any, Sequence[Any]], Sequence[Any]]
    compute: int
    """ONNX element type that it computes in."""
    notes: tuple[str, ...] = field(default=())


CudaKernel = SourceKernel | Variants | CudnnKernel


class Pass(StrEnum):
    """Which of a convolution's three computations."""

    FORWARD = "forward"
    INPUT_GRADIENT = "input gradient"
    WEIGHT_GRADIENT = "weight gradient"


@dataclass(frozen=True, slots=True)
class Strided:
    """An operand of any layout: dimensions, strides in elements, ONNX element type."""

    dims: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int

    @classmethod
    def of(cls, dims: tuple[int, ...], dtype: int, last: bool = False) -> "Strided":
        """[N, C, ...] without gaps, channels last in memory where `last`."""
        at, strides = 1, [0] * len(dims)
        for axis in (1, *range(len(dims) - 1, 1, -1), 0) if last else range(len(dims) - 1, -1, -1):
            strides[axis], at = at, at * dims[axis]
        return cls(dims, tuple(strides), dtype)


@dataclass(frozen=True)
class ConvolutionKernel:
    """A convolution for a library of the CPU.

    `operands` are X [N, C, ...], W [O, C, ...], with groups [G, O / G, C / G, ...], and Y [N, O, ...]; `places` the
    positions of the three among the operator's operands, inputs first, then the output.
    """

    which: Pass
    operands: tuple[Strided, Strided, Strided]
    places: tuple[int, int, int]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class BatchNormKernel:
    """A batch-norm in training of X [N, C, ...] for a library of the CPU, with the operands of planc's own operators:
    `relu` behind it, and where `added` the residual or, in the gradient, the result."""

    gradient: bool
    x: Strided
    epsilon: float
    relu: bool
    added: bool


@dataclass(frozen=True)
class PoolKernel:
    """A pool from X to Y [N, C, ...] for a library of the CPU: of maxima, or of averages, in which pads count where
    `padded`. `pads` reach as far as windows do."""

    gradient: bool
    maximum: bool
    x: Strided
    y: Strided
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, ...], tuple[int, ...]]
    padded: bool = False


@dataclass(frozen=True)
class LayerNormKernel:
    """A layer-norm of `rows` rows of `columns` float32 elements for a library of the CPU, with the operands of planc's own
    operators; forward `biased` says that there is a bias."""

    gradient: bool
    rows: int
    columns: int
    epsilon: float
    biased: bool


@dataclass(frozen=True)
class GeluKernel:
    """GELU of so many float32 elements for a library of the CPU, or its gradient; exact, or its form with `tanh`."""

    gradient: bool
    size: int
    tanh: bool


@dataclass(frozen=True)
class AddedRowsKernel:
    """Rows [rows, columns] of float32 added, on the CPU, to those of a table [count, columns] that integers name, of 64
    bits where `long`; the table begins as a `based` operand, or as zeros."""

    rows: int
    columns: int
    count: int
    long: bool
    based: bool


@dataclass(frozen=True)
class AttentionKernel:
    """Attention for a library of the CPU, with the operands of planc's own operators: Q [B, H, S, D], which Y is like,
    K and V [B, H, T, D], and a bias [B or 1, H or 1, S or 1, T or 1] where there is one."""

    gradient: bool
    q: Strided
    k: Strided
    bias: Strided | None
    scale: float
    causal: bool


@dataclass(frozen=True)
class AdamKernel:
    """An update of so many float32 elements by Adam's rule for a library of the CPU."""

    size: int
    epsilon: float


CpuKernel = (
    ConvolutionKernel
    | BatchNormKernel
    | PoolKernel
    | LayerNormKernel
    | GeluKernel
    | AddedRowsKernel
    | AttentionKernel
    | AdamKernel
)
