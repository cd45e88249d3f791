"""What holds for all kernels, on the host: they compute the meaning, at any address the same bits, and hide no NaN."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from support import host_cuda
from support.kernel_calls import by_meaning
from support.kernel_cases import BRAIN, FLOAT, cases, single_cases, source_kernels

from planc.kernels import Call
from planc.kernels.device import SourceKernel

Array = Any
needs_compiler = pytest.mark.skipif(host_cuda.why_not() is not None, reason=str(host_cuda.why_not()))
SMALL = {"CrossEntropy": 37, "CrossEntropyGradient": 37, "LinearCrossEntropy": 37, "EmbeddingGradient": 9}
"""Classes, and rows of a table, that integers of these operators number."""

FIRST = {call.operator.name: call for call in reversed(cases(FLOAT)) if not call.operator.name.startswith("Attention")}
"""One call of each operator; attention has tests of its own, and its threads take long on the host."""

INSIDE = 2
"""A place of the pools' windows that never lies in the padding."""


def _at(values: Array, skip: int) -> Array:
    """A copy `skip` bytes behind a multiple of 64."""
    room = np.empty(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + skip
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _operands(call: Call, most: int) -> list[Array]:
    """Normal numbers, positive ones for vectors, which may be variances; integers below `most`."""
    rng = np.random.default_rng(5)
    found = []
    for kind in call.inputs:
        dtype = helper.tensor_dtype_to_np_dtype(kind.dtype)
        numbers = kind.dtype in (TensorProto.INT64, TensorProto.UINT8)
        values = rng.integers(0, most, kind.shape) if numbers else rng.standard_normal(kind.shape)
        values = np.full(kind.shape, INSIDE) if kind.dtype == TensorProto.UINT8 else values
        found.append(np.asarray(np.abs(values) + 0.5 if not numbers and len(kind.shape) == 1 else values).astype(dtype))
    return found


def _run(call: Call, kernel: SourceKernel, arrays: list[Array], skip: int) -> list[Array]:
    outputs = [_at(np.full(t.shape, 77, helper.tensor_dtype_to_np_dtype(t.dtype)), skip) for t in call.outputs]
    host_cuda.run(kernel, [_at(a, skip * (a.dtype.itemsize <= 4)) for a in arrays], outputs)
    return outputs


def _close(found: Array, wanted: Array, tolerance: float) -> bool:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return bool(np.abs(a - b).max(initial=0) <= tolerance * max(1.0, np.abs(b).max(initial=0)))


@needs_compiler
@pytest.mark.parametrize("name", sorted(FIRST))
def test_a_kernel_computes_its_meaning_at_any_address_and_hides_no_nan(name: str) -> None:
    call = FIRST[name]
    kernel = source_kernels(call)[0]
    arrays = _operands(call, SMALL.get(name, 6))
    wanted = by_meaning(call, arrays)
    made = _run(call, kernel, arrays, 0)
    assert all(_close(a, b, 1e-5) for a, b in zip(made, wanted, strict=True))
    poisoned = [a.copy() for a in arrays]
    first = next(a for a in poisoned if a.dtype.kind == "f")
    first.reshape(first.shape[0], -1)[0] = np.nan
    first.reshape(-1)[-1] = np.inf
    runs = [_run(call, kernel, poisoned, 0)]
    if kernel.narrow is not None:
        runs.append(_run(call, kernel.narrow, poisoned, 4))
    for outputs in runs:
        assert any(np.isnan(a).any() for a in outputs if a.dtype.kind == "f")
        for found, same in zip(outputs, runs[0], strict=True):
            if found.dtype.kind == "f":
                numbers = ~np.isnan(same)
                assert np.array_equal(numbers, ~np.isnan(found))
                assert found[numbers].tobytes() == same[numbers].tobytes()


@needs_compiler
@pytest.mark.parametrize("call", single_cases(BRAIN), ids=lambda call: call.operator.name)
def test_a_kernel_of_one_element_computes_its_meaning(call: Call) -> None:
    arrays = _operands(call, 1)
    wanted = by_meaning(call, arrays)
    for kernel in source_kernels(call):
        made = _run(call, kernel, arrays, 0)
        assert all(_close(a, b, 2.0**-7) for a, b in zip(made, wanted, strict=True))
