"""Column sums and sums of squares against NumPy in float64, by meaning and by kernel on the host."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.kernels.row_sum import ROW_SUM

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def _check(run: Any, rows: int, columns: int, dtype: str, squares: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, columns)).astype(DTYPES[dtype])
    exact = np.sum(x.astype(np.float64) ** (1 + squares), 0)
    (found,) = run(call_on(ROW_SUM, [x], squares=squares), [x])
    assert found.dtype == np.float32
    magnitude = np.sum(np.abs(x.astype(np.float64)) ** (1 + squares), 0)
    assert np.all(np.abs(found - exact) <= 2.0**-24 * magnitude * (2 + np.log2(rows + 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("squares", [0, 1])
def test_the_meaning_sums_rows(dtype: str, squares: int) -> None:
    _check(by_meaning, 37, 5, dtype, squares, 1)


@needs_compiler
@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([1, 3, 64, 333]), st.sampled_from([1, 2, 7, 24, 264]), st.sampled_from(sorted(DTYPES)),
    st.integers(0, 1), st.integers(0, 99),
)  # fmt: skip
def test_the_kernel_sums_rows(rows: int, columns: int, dtype: str, squares: int, seed: int) -> None:
    _check(by_kernel, rows, columns, dtype, squares, seed)


@needs_compiler
def test_bits_do_not_depend_on_addresses() -> None:
    x = np.random.default_rng(0).standard_normal((200, 24)).astype(ml_dtypes.bfloat16)
    call = call_on(ROW_SUM, [x])
    assert by_kernel(call, [x])[0].tobytes() == by_kernel(call, [x], narrow=True)[0].tobytes()


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ModelError, match="RowSum"):
        _ = call_on(ROW_SUM, [np.zeros((2, 3, 4), np.float32)]).outputs
