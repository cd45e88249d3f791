"""Cross-entropy against torch in float64: by its meaning, and by its kernels run on the host."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.kernels.cross_entropy import CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT, IGNORED

F = torch.nn.functional
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def _data(rows: int, classes: int, dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    labels[rng.random(rows) < 0.2] = IGNORED
    return (rng.standard_normal((rows, classes)) * 5).astype(DTYPES[dtype]), labels


def _by_torch(
    logits: np.ndarray, labels: np.ndarray, share: np.ndarray, smoothing: float, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    leaf = torch.from_numpy(logits.astype(np.float32)).to(dtype).requires_grad_()
    loss = F.cross_entropy(leaf, torch.from_numpy(labels), reduction="none", label_smoothing=smoothing)
    loss.backward(torch.from_numpy(share).to(dtype))
    return loss.detach().double().numpy(), leaf.grad.double().numpy()


def _check(run: Any, rows: int, classes: int, dtype: str, smoothing: float, seed: int) -> None:
    """Errors at most 1.5 times those of torch in float32; a half result is off by its own rounding besides."""
    logits, labels = _data(rows, classes, dtype, seed)
    share = np.random.default_rng(seed + 1).standard_normal(rows).astype(np.float32)
    wanted, near = (_by_torch(logits, labels, share, smoothing, t) for t in (torch.float64, torch.float32))
    settings_ = {"smoothing": smoothing}
    loss, statistics = run(call_on(CROSS_ENTROPY, [logits, labels], **settings_), [logits, labels])
    operands = [logits, labels, statistics, share]
    (slope,) = run(call_on(CROSS_ENTROPY_GRADIENT, operands, **settings_), operands)
    assert slope.dtype == logits.dtype
    unit = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for found, exact, torchs, rounding in ((loss, wanted[0], near[0], 0.0), (slope, wanted[1], near[1], unit)):
        found = found.astype(np.float64)
        allowed = 1.5 * np.linalg.norm(torchs - exact) + rounding * np.linalg.norm(exact) + 1e-7 * np.sqrt(exact.size)
        assert np.linalg.norm(found - exact) <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_meaning_is_torchs_cross_entropy(dtype: str, smoothing: float) -> None:
    _check(by_meaning, 13, 57, dtype, smoothing, 3)


@needs_compiler
@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 31, 64, 257]),
    st.sampled_from(sorted(DTYPES)),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_kernel_is_torchs_cross_entropy(rows: int, classes: int, dtype: str, smooth: bool, seed: int) -> None:
    _check(by_kernel, rows, classes, dtype, 0.2 if smooth else 0.0, seed)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_addresses(dtype: str) -> None:
    logits, labels = _data(5, 131, dtype, 1)
    call = call_on(CROSS_ENTROPY, [logits, labels])
    wide, narrow = (by_kernel(call, [logits, labels], narrow) for narrow in (False, True))
    assert [a.tobytes() for a in wide] == [a.tobytes() for a in narrow]
    operands = [logits, labels, wide[1], np.float32(0.5)]
    gradient = call_on(CROSS_ENTROPY_GRADIENT, operands)
    first, second = (by_kernel(gradient, operands, narrow)[0] for narrow in (False, True))
    assert first.tobytes() == second.tobytes()


@needs_compiler
@pytest.mark.parametrize("run", [by_meaning, by_kernel])
def test_infinities_and_nans_are_torchs(run: Any) -> None:
    """Masked classes, rows of nothing else, infinite and undefined logits; the gradient of ignored rows is 0."""
    inf, nan = np.inf, np.nan
    logits = np.zeros((8, 70), np.float32)
    logits[0, 5:] = -inf
    logits[1] = -inf
    logits[2, 33] = inf
    logits[3, 60] = nan
    logits[4, 0] = nan
    logits[5] = -inf
    logits[5, 69] = 3
    logits[6, :69] = 1e30
    labels = np.array([2, 0, 33, 1, 0, 69, 69, IGNORED])
    share = np.ones(8, np.float32)
    wanted, slopes = _by_torch(logits, labels, share, 0.0, torch.float32)
    loss, statistics = run(call_on(CROSS_ENTROPY, [logits, labels]), [logits, labels])
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    operands = [logits, labels, statistics, share]
    (slope,) = run(call_on(CROSS_ENTROPY_GRADIENT, operands), operands)
    np.testing.assert_allclose(slope, slopes, rtol=1e-5, atol=1e-6)


def test_operands_that_do_not_fit_are_refused() -> None:
    logits, labels = _data(4, 5, "float32", 0)
    for operands in (
        [logits.astype(np.float64), labels],
        [logits[0], labels],
        [logits, labels[:2]],
        [logits, labels.astype(np.int32)],
    ):
        with pytest.raises(ModelError, match="CrossEntropy"):
            _ = call_on(CROSS_ENTROPY, operands).outputs
