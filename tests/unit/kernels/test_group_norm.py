"""Group- and instance-norm by meaning and by kernel on the host: at most 1.5 times torch's error from float64."""

from collections.abc import Callable
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
from planc.kernels.group_norm import GROUP_NORM, GROUP_NORM_GRADIENT

DTYPES: dict[str, tuple[Any, torch.dtype]] = {
    "float32": (np.float32, torch.float32),
    "float16": (np.float16, torch.float16),
    "bfloat16": (ml_dtypes.bfloat16, torch.bfloat16),
}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
Array = Any


class Sample:
    """Operands of both directions; `by_torch` gives y, dx, dscale, dbias in a type, `by_planc` the same by planc."""

    def __init__(self, shape: tuple[int, ...], groups: int, dtype: str, seed: int) -> None:
        rng, kind = np.random.default_rng(seed), DTYPES[dtype][0]
        self.dtype, self.groups = dtype, groups
        self.x = (rng.standard_normal(shape) * 2 + 3).astype(kind)
        self.dy = rng.standard_normal(shape).astype(kind)
        self.scale, self.bias = (rng.standard_normal(shape[1]).astype(kind) for _ in range(2))

    def by_torch(self, dtype: torch.dtype) -> list[Array]:
        x, dy, scale, bias = (
            torch.tensor(a.astype(np.float64)).to(dtype) for a in (self.x, self.dy, self.scale, self.bias)
        )
        leaves = [t.requires_grad_() for t in (x, scale, bias)]
        y = torch.nn.functional.group_norm(x, self.groups, scale, bias)
        return [t.detach().double().numpy() for t in (y, *torch.autograd.grad(y, leaves, dy))]

    def by_planc(self, run: Callable[..., list[Array]], **how: Any) -> list[Array]:
        operands = [self.x, self.scale, self.bias]
        y, statistics = run(call_on(GROUP_NORM, operands, groups=self.groups), operands, **how)
        operands = [self.dy, self.x, self.scale, statistics]
        return [y, *run(call_on(GROUP_NORM_GRADIENT, operands, groups=self.groups), operands, **how)]


def _check(run: Callable[..., list[Array]], sample: Sample) -> None:
    """Not worse than 1.5 times torch, or than half a unit in the last place of every element."""
    exact, given = sample.by_torch(torch.float64), sample.by_torch(DTYPES[sample.dtype][1])
    unit = float(ml_dtypes.finfo(DTYPES[sample.dtype][0]).eps) / 2
    for found, wanted, theirs in zip(sample.by_planc(run), exact, given, strict=True):
        error, usual = (float(np.linalg.norm(a.astype(np.float64) - wanted)) for a in (found, theirs))
        assert found.shape == wanted.shape
        assert error <= 1.5 * usual + unit * float(np.linalg.norm(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_meaning_is_torchs(dtype: str) -> None:
    _check(by_meaning, Sample((3, 6, 5, 4), 3, dtype, 0))


@needs_compiler
@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([((2, 6, 9, 7), 2), ((3, 8, 32), 8), ((1, 4, 1100), 2), ((5, 12), 3), ((40, 1, 3), 1)]),
    st.sampled_from(sorted(DTYPES)), st.integers(0, 99),
)  # fmt: skip
def test_the_kernels_are_torchs(case: tuple[tuple[int, ...], int], dtype: str, seed: int) -> None:
    _check(by_kernel, Sample(*case, dtype, seed))


@needs_compiler
def test_bits_do_not_depend_on_addresses_and_what_is_no_number_stays_in_its_group() -> None:
    sample = Sample((2, 4, 16), 2, "float32", 1)
    sample.x[0, 3, 2], sample.x[1, 0, 5] = np.nan, np.inf
    wide, narrow = sample.by_planc(by_kernel), sample.by_planc(by_kernel, narrow=True)
    assert [a.tobytes() for a in wide] == [a.tobytes() for a in narrow]
    for found in wide[:2]:
        assert np.isnan(found).all(2).tolist() == [[False, False, True, True], [True, True, False, False]]


@pytest.mark.parametrize("groups", [0, 3])
def test_groups_that_do_not_fit_are_refused(groups: int) -> None:
    x, vector = np.zeros((1, 4, 2), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ModelError, match="GroupNorm"):
        _ = call_on(GROUP_NORM, [x, vector, vector], groups=groups).outputs
