"""Layer-norm and RMS-norm by meaning and by kernel on the host: at most 1.5 times torch's error from float64."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.graph.inplace import in_place_inputs
from planc.kernels.layer_norm import LAYER_NORM, LAYER_NORM_GRADIENT, LONGEST

DTYPES: dict[str, tuple[Any, torch.dtype, int]] = {
    "float32": (np.float32, torch.float32, TensorProto.FLOAT),
    "float16": (np.float16, torch.float16, TensorProto.FLOAT16),
    "bfloat16": (ml_dtypes.bfloat16, torch.bfloat16, TensorProto.BFLOAT16),
}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
Array = Any
EPSILON = 1e-5


class Sample:
    """Operands of both directions, and what torch makes of them in a type."""

    def __init__(self, rows: int, tail: tuple[int, ...], dtype: str, centred: bool, added: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        kind = DTYPES[dtype][0]
        self.dtype, self.centred, self.tail = dtype, centred, tail
        self.x = (rng.standard_normal((rows, *tail)) * 2 + 3).astype(kind)
        self.dy, self.addend = (rng.standard_normal((rows, *tail)).astype(kind) for _ in range(2))
        self.scale, self.bias = (rng.standard_normal(tail).astype(kind) for _ in range(2))
        self.added = added

    def by_torch(self, dtype: torch.dtype) -> list[np.ndarray[Any, Any]]:
        """y, dx, dscale and, if centred, dbias."""
        x, dy, addend, scale, bias = (
            torch.tensor(a.astype(np.float64)).to(dtype) for a in (self.x, self.dy, self.addend, self.scale, self.bias)
        )
        leaves = [t.requires_grad_() for t in ((x, scale, bias) if self.centred else (x, scale))]
        norm = torch.nn.functional.layer_norm if self.centred else torch.nn.functional.rms_norm
        y = norm(x, self.tail, *leaves[1:], eps=EPSILON)
        grads = list(torch.autograd.grad(y, leaves, dy))
        grads[0] = grads[0] + addend if self.added else grads[0]
        return [t.detach().double().numpy() for t in (y, *grads)]

    def by_planc(self, run: Callable[..., list[Array]], **how: Any) -> list[Array]:
        """The same by planc's operators, the gradient with the statistics that the forward one gives."""
        given = [self.x, self.scale, *([self.bias] if self.centred else [])]
        forward = call_on(LAYER_NORM, given, epsilon=EPSILON, centred=int(self.centred))
        y, statistics = run(forward, given, **how)
        given = [self.dy, self.x, self.scale, statistics, *([self.addend] if self.added else [])]
        gradient = call_on(LAYER_NORM_GRADIENT, given, epsilon=EPSILON, centred=int(self.centred))
        return [y, *run(gradient, given, **how)]


def _error(found: Array, exact: Array) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - exact))


def _check(run: Callable[..., list[Array]], sample: Sample) -> None:
    """Not worse than 1.5 times torch, or than half a unit in the last place of every element."""
    exact, given = sample.by_torch(torch.float64), sample.by_torch(DTYPES[sample.dtype][1])
    unit = float(ml_dtypes.finfo(DTYPES[sample.dtype][0]).eps) / 2
    for found, wanted, theirs in zip(sample.by_planc(run), exact, given, strict=True):
        assert found.shape == wanted.shape
        assert _error(found, wanted) <= 1.5 * _error(theirs, wanted) + unit * float(np.linalg.norm(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centred", [True, False], ids=["layer-norm", "rms-norm"])
def test_the_meaning_is_torchs(dtype: str, centred: bool) -> None:
    _check(by_meaning, Sample(7, (5, 4), dtype, centred, True, 0))


TAILS: Sequence[tuple[int, ...]] = [(1,), (2,), (3,), (5, 4), (24,), (129,), (200,), (768,), (1028,), (2050,)]


@needs_compiler
@settings(max_examples=14, deadline=None)
@given(
    st.sampled_from([1, 2, 9, 300]), st.sampled_from(TAILS), st.sampled_from(sorted(DTYPES)), st.booleans(),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_the_kernels_are_torchs(
    rows: int, tail: tuple[int, ...], dtype: str, centred: bool, added: bool, seed: int
) -> None:
    rows = min(rows, 9) if tail[0] > 700 else max(rows, 400 // tail[0])
    _check(by_kernel, Sample(rows, tail, dtype, centred, added, seed))


@needs_compiler
@pytest.mark.parametrize("tail", [(24,), (1028,)], ids=str)
def test_bits_do_not_depend_on_addresses(tail: tuple[int, ...]) -> None:
    sample = Sample(40, tail, "bfloat16", True, True, 1)
    wide, narrow = sample.by_planc(by_kernel), sample.by_planc(by_kernel, narrow=True)
    assert [a.tobytes() for a in wide] == [a.tobytes() for a in narrow]


@needs_compiler
@pytest.mark.parametrize("run", [by_meaning, by_kernel], ids=["meaning", "kernel"])
def test_a_result_of_another_type_is_the_rounded_one(run: Callable[..., list[Array]]) -> None:
    sample = Sample(6, (48,), "float32", True, False, 2)
    given = [sample.x, sample.scale, sample.bias]
    wide = run(call_on(LAYER_NORM, given), given)
    narrow = run(call_on(LAYER_NORM, given, to=TensorProto.BFLOAT16), given)
    assert wide[0].astype(ml_dtypes.bfloat16).tobytes() == narrow[0].tobytes()
    assert wide[1].tobytes() == narrow[1].tobytes()
    dy = sample.dy.astype(ml_dtypes.bfloat16)
    pair = [[a, sample.x, sample.scale, wide[1], sample.addend] for a in (dy, dy.astype(np.float32))]
    half, single = (run(call_on(LAYER_NORM_GRADIENT, given), given) for given in pair)
    for a, b in zip(half, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@needs_compiler
def test_what_is_no_number_stays_in_its_row() -> None:
    sample = Sample(9, (40,), "float32", True, False, 3)
    sample.x[2, 5], sample.x[4, 0] = np.nan, np.inf
    y, dx, dscale, dbias = sample.by_planc(by_kernel)
    assert np.isnan(y).all(1).tolist() == [row in (2, 4) for row in range(9)]
    assert np.isnan(dx).all(1).tolist() == [row in (2, 4) for row in range(9)]
    assert np.isnan(dscale).all()
    assert not np.isnan(dbias).any()


def test_rows_that_no_block_holds_have_no_kernel() -> None:
    x, scale = np.zeros((1, LONGEST + 1), np.float32), np.zeros(LONGEST + 1, np.float32)
    call = call_on(LAYER_NORM, [x, scale])
    assert call.operator.cuda is not None
    assert call.operator.cuda(call) is None


def test_a_gradient_without_addend_takes_the_place_of_its_first_two_inputs() -> None:
    name = "LayerNormGradient_0"
    assert [in_place_inputs(name, "planc.kernels", n) for n in (4, 5)] == [(0, 1), (0, 1, 4)]


@pytest.mark.parametrize(
    "shapes", [[(2, 3), (2,)], [(2, 3), ()], [(2, 3), (3,), (2,)]], ids=["last axes", "no axis", "bias"]
)
def test_what_does_not_fit_is_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ModelError, match="LayerNorm"):
        _ = call_on(LAYER_NORM, [np.zeros(s, np.float32) for s in shapes]).outputs
