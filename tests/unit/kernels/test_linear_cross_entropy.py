"""The product with its cross-entropy, in one or more chunks, against torch in float64."""

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from support.host_cuda import why_not
from support.kernel_calls import by_kernel, by_meaning, call_on

from planc.errors import ModelError
from planc.kernels.cross_entropy import IGNORED
from planc.kernels.device import Variants
from planc.kernels.linear_cross_entropy import CHUNKS, LINEAR_CROSS_ENTROPY

F = torch.nn.functional
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
needs_compiler = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def _operands(rows: int, width: int, classes: int, dtype: str, columns: bool, each: bool) -> list[np.ndarray]:
    rng = np.random.default_rng(rows + classes)
    labels = rng.integers(0, classes, rows)
    labels[::5] = IGNORED
    weight = rng.standard_normal((width, classes) if columns else (classes, width)) / 3
    share = rng.standard_normal(rows) if each else np.array(0.25)
    x = rng.standard_normal((rows, width))
    return [x.astype(DTYPES[dtype]), weight.astype(DTYPES[dtype]), labels, share.astype(np.float32)]


def _check(run: Any, operands: list[np.ndarray], dtype: str, columns: bool, smoothing: float) -> None:
    """Errors within what rounding logits and their gradients to the type may cost."""
    x, weight, labels, share = operands
    leaves = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, weight)]
    matrix = leaves[1] if columns else leaves[1].T
    loss = F.cross_entropy(leaves[0] @ matrix, torch.from_numpy(labels), reduction="none", label_smoothing=smoothing)
    loss.backward(torch.from_numpy(share.astype(np.float64)).expand(len(labels)))
    exact = [loss.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]
    call = call_on(LINEAR_CROSS_ENTROPY, operands, columns=int(columns), smoothing=smoothing)
    for found, wanted in zip(run(call, operands), exact, strict=True):
        error = np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert error <= 4 * UNITS[dtype] + 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [False, True])
def test_the_meaning_is_a_product_and_torchs_cross_entropy(dtype: str, columns: bool) -> None:
    for each, smoothing in ((False, 0.0), (True, 0.1)):
        _check(by_meaning, _operands(23, 8, 37, dtype, columns, each), dtype, columns, smoothing)


@needs_compiler
@pytest.mark.parametrize("variant", [f"chunks_{count}" for count in (1, 2, 4)])
@pytest.mark.parametrize(
    ("dtype", "columns", "each"), [("float32", False, True), ("bfloat16", True, False), ("bfloat16", False, True)]
)
def test_every_number_of_chunks_gives_the_same_loss(variant: str, dtype: str, columns: bool, each: bool) -> None:
    """With a class count that no vector divides, and a last chunk that is shorter."""
    _check(partial(by_kernel, variant=variant), _operands(517, 8, 37, dtype, columns, each), dtype, columns, 0.0)


def test_more_chunks_take_less_workspace() -> None:
    operands = _operands(4096, 8, 1001, "bfloat16", False, False)
    call = call_on(LINEAR_CROSS_ENTROPY, operands)
    kernel = call.operator.cuda(call) if call.operator.cuda else None
    assert isinstance(kernel, Variants)
    sizes = [variant.workspace for variant in kernel.kernels.values()]
    assert len(sizes) == len(CHUNKS)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[1] >= 2048 * 1001 * 2


def test_operands_that_do_not_fit_are_refused() -> None:
    x, weight, labels, share = _operands(8, 4, 5, "float32", False, False)
    for operands in (
        [x, weight.T, labels, share],
        [x, weight.astype(np.float16), labels, share],
        [x, weight, labels[:3], share],
    ):
        with pytest.raises(ModelError, match="LinearCrossEntropy"):
            _ = call_on(LINEAR_CROSS_ENTROPY, operands).outputs
