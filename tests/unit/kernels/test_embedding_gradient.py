"""The embedding's gradient against NumPy in float64, by meaning and by kernel on the host."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT, MOST

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
Array = Any


def _check(run: Callable[..., list[Array]], ids: Array, width: int, count: int, dtype: str, based: bool) -> None:
    rng = np.random.default_rng(ids.size)
    dy = rng.standard_normal((ids.size, width)).astype(DTYPES[dtype])
    base = rng.standard_normal((count, width)).astype(np.float32) if based else np.zeros((count, width), np.float32)
    given = [ids, dy, *([base] if based else [])]
    (found,) = run(call_on(EMBEDDING_GRADIENT, given, count=count), given)
    exact, size = base.astype(np.float64), np.abs(base).astype(np.float64)
    np.add.at(exact, ids, dy.astype(np.float64))
    np.add.at(size, ids, np.abs(dy.astype(np.float64)))
    most = np.bincount(ids % count, minlength=count).max()
    assert found.dtype == np.float32
    assert np.all(np.abs(found - exact) <= 2.0**-24 * size * (2 + most))
    untouched = np.setdiff1d(np.arange(count), ids % count)
    assert np.array_equal(found[untouched], base[untouched])


def test_the_meaning_adds_rows() -> None:
    _check(by_meaning, np.array([1, 1, 4, -1, 0, 1]), 3, 6, "float32", False)
    _check(by_meaning, np.array([1, 1, 4, -1, 0, 1]), 3, 6, "bfloat16", True)


@needs_compiler
@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 700), st.sampled_from([1, 2, 5, 300]), st.sampled_from([1, 4, 6, 136]),
    st.sampled_from(sorted(DTYPES)), st.booleans(), st.sampled_from([np.int64, np.int32]), st.integers(0, 99),
)  # fmt: skip
def test_the_kernel_adds_rows(
    numbers: int, count: int, width: int, dtype: str, based: bool, kind: Any, seed: int
) -> None:
    ids = np.random.default_rng(seed).integers(-count, count, numbers).astype(kind)
    _check(by_kernel, ids, width, count, dtype, based)


@needs_compiler
def test_the_order_of_additions_is_that_of_the_rows() -> None:
    ids = np.array([3, 1, 3, 3, 0, 3] * 2, np.int64)
    dy = np.random.default_rng(0).standard_normal((ids.size, 8)).astype(np.float32) * 1e3
    (found,) = by_kernel(call_on(EMBEDDING_GRADIENT, [ids, dy], count=5), [ids, dy])
    wanted = np.zeros((5, 8), np.float32)
    for i, row in zip(ids, dy, strict=True):
        wanted[i] += row
    assert found.tobytes() == wanted.tobytes()
    (narrow,) = by_kernel(call_on(EMBEDDING_GRADIENT, [ids, dy], count=5), [ids, dy], narrow=True)
    assert narrow.tobytes() == wanted.tobytes()


@needs_compiler
def test_numbers_outside_the_table_write_nowhere_and_what_is_no_number_stays_in_its_row() -> None:
    ids = np.array([7, 2, -9, 1, 2], np.int64)
    dy = np.ones((5, 4), np.float32)
    dy[1, 2] = np.nan
    (found,) = by_kernel(call_on(EMBEDDING_GRADIENT, [ids, dy], count=4), [ids, dy])
    assert np.array_equal(np.isnan(found), [[False] * 4, [False] * 4, [False, False, True, False], [False] * 4])
    assert found[1].tolist() == [1] * 4
    assert found[[0, 3]].sum() == 0


def test_more_numbers_than_are_compared_have_no_kernel() -> None:
    ids, dy = np.zeros(MOST + 1, np.int64), np.zeros((MOST + 1, 1), np.float32)
    call = call_on(EMBEDDING_GRADIENT, [ids, dy], count=2)
    assert call.operator.cuda is not None
    assert call.operator.cuda(call) is None


def test_what_does_not_fit_is_refused() -> None:
    for ids, base in ((np.zeros(2, np.float32), ()), (np.zeros(3, np.int64), ()), (np.zeros(2, np.int64), (3, 4))):
        given = [ids, np.zeros((2, 5), np.float32), *([np.zeros(base, np.float32)] if base else [])]
        with pytest.raises(ModelError, match="EmbeddingGradient"):
            _ = call_on(EMBEDDING_GRADIENT, given, count=3).outputs
