"""Rotary embeddings: the meaning against torch in float64, the kernel on the host against the meaning, bit for bit."""

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
from planc.kernels.rotary import ROTARY

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHAPES = [
    ((2, 5, 3, 8), (1, 5, 1, 8)), ((2, 3, 5, 6), (5, 6)), ((2, 5, 3, 64), (2, 5, 1, 64)), ((7, 2), (7, 2)),
    ((1, 1, 1, 4), (1, 1, 1, 4)), ((4, 33, 10), (1, 10)),
]  # fmt: skip
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def _operands(shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: str, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shapes[0]).astype(DTYPES[dtype])
    return [x, *(rng.standard_normal(shapes[1]).astype(np.float32) for _ in range(2))]


def _by_torch(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat([-high, low], -1) * sine


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_the_meaning_and_its_inverse_are_torchs(shapes: Any, dtype: str) -> None:
    operands = _operands(shapes, dtype, 0)
    x, cosine, sine = (torch.from_numpy(a.astype(np.float64)) for a in operands)
    y = _by_torch(x.requires_grad_(), cosine, sine)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(DTYPES[dtype])
    (dx,) = torch.autograd.grad(y, x, torch.from_numpy(dy.astype(np.float64)))
    unit = float(ml_dtypes.finfo(DTYPES[dtype]).eps)
    for inverse, given_, wanted in ((0, operands, y.detach()), (1, [dy, *operands[1:]], dx)):
        (found,) = by_meaning(call_on(ROTARY, given_, inverse=inverse), given_)
        assert np.abs(found.astype(np.float64) - wanted.numpy()).max() <= 2 * unit * float(wanted.abs().max())


@needs_compiler
@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(SHAPES), st.sampled_from(sorted(DTYPES)), st.booleans(), st.sampled_from(["", "bfloat16"]),
    st.integers(0, 9),
)  # fmt: skip
def test_the_kernel_has_the_bits_of_the_meaning(shapes: Any, dtype: str, inverse: bool, to: str, seed: int) -> None:
    operands = _operands(shapes, dtype, seed)
    operands[0].reshape(-1)[:3:2] = np.nan, np.inf
    call = call_on(ROTARY, operands, inverse=int(inverse), to=TensorProto.BFLOAT16 if to else 0)
    (wanted,) = by_meaning(call, operands)
    wide, narrow = by_kernel(call, operands)[0], by_kernel(call, operands, narrow=True)[0]
    assert wide.tobytes() == narrow.tobytes()
    number = ~np.isnan(wanted.astype(np.float32))
    assert np.array_equal(number, ~np.isnan(wide.astype(np.float32)))
    assert wide[number].tobytes() == wanted[number].tobytes()


def test_angles_of_every_batch_behind_heads_run_by_the_meaning() -> None:
    operands = [np.zeros((2, 3, 5, 4), np.float32), *[np.zeros((2, 1, 5, 4), np.float32)] * 2]
    call = call_on(ROTARY, operands)
    assert call.operator.cuda is not None
    assert call.operator.cuda(call) is None


@pytest.mark.parametrize(("x", "angles"), [((4, 5), (4, 5)), ((4, 6), (4, 3)), ((4, 6), (2, 4, 6)), ((4, 6), (3, 6))])
def test_what_does_not_fit_is_refused(x: tuple[int, ...], angles: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="Rotary"):
        _ = call_on(ROTARY, [np.zeros(x, np.float32), *[np.zeros(angles, np.float32)] * 2]).outputs
