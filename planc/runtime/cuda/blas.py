"""Products by cuBLAS for planc's own operators: one handle for each card, streams and workspaces given at every call."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from onnx import TensorProto

from planc.errors import DeviceError
from planc.kernels.device import Product
from planc.runtime.cuda.driver import call

_LIBRARY = "libcublas.so.13"

_TYPES: dict[int, int] = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 14}
"""`cudaDataType` by ONNX element type."""

_FLOAT32, _TF32 = 68, 77
"""`cublasComputeType_t`: float32 sums of halves; of float32 numbers rounded to TF32, as ONNX Runtime computes with."""

_WHOLE_SUMS = 16
"""`CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION`: parts of sums stay float32."""

_DEFAULT_ALGORITHM = -1


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise DeviceError(
            f"cuBLAS does not load: {error}; install it, for example with pip install 'planc[cuda]'"
        ) from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetMathMode.argtypes = [pointer, number]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    matrix: list[Any] = [pointer, number, number]
    sizes: list[Any] = [number] * 5
    library.cublasGemmEx.argtypes = [pointer, *sizes, pointer, *matrix, *matrix, pointer, *matrix, number, number]
    return library


_HANDLES: dict[int, ctypes.c_void_p] = {}
"""By card; kept for the rest of the process."""


def prepare() -> None:
    """Make the current card's handle, which no recording may do. Raises DeviceError."""
    device = int(call("cuCtxGetDevice"))
    if device not in _HANDLES:
        handle = ctypes.c_void_p()
        _checked(_library().cublasCreate_v2, ctypes.byref(handle))
        _checked(_library().cublasSetMathMode, handle, _WHOLE_SUMS)
        _HANDLES[device] = handle


def multiply(product: Product, addresses: Sequence[int], stream: int) -> None:
    """Queue a product of matrices at the addresses of A, B, C and the library's workspace. Raises DeviceError."""
    library, handle = _library(), _HANDLES[int(call("cuCtxGetDevice"))]
    a, b, c, scratch = addresses
    _checked(library.cublasSetStream_v2, handle, stream)
    _checked(library.cublasSetWorkspace_v2, handle, scratch, product.scratch_bytes)
    one, kept = ctypes.c_float(1.0), ctypes.c_float(float(product.add))
    given, made = (_TYPES[dtype] for dtype in product.dtypes)
    leads, computed = product.leads, _TF32 if given == 0 else _FLOAT32
    _checked(
        library.cublasGemmEx, handle, *map(int, product.transposed), *product.sizes, ctypes.byref(one),
        a, given, leads[0], b, given, leads[1], ctypes.byref(kept), c, made, leads[2], computed, _DEFAULT_ALGORITHM,
    )  # fmt: skip


def _checked(function: Callable[..., Any], *arguments: object) -> None:
    status = function(*arguments)
    if status:
        raise DeviceError(f"{getattr(function, '__name__', 'cuBLAS')} failed with status {status}")
