"""Convolutions, batch-norm and pools of planc's own: their functions against torch in float64, their CUDA C, run on the
host, against their functions."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from support import host_cuda
from support.own_calls import by_function, call_for, empty_like, last

from planc.errors import InternalError, ModelError
from planc.kernels import OPERATORS, TensorType, function_of, register
from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.kernels.convolution import CONVOLUTION, INPUT_GRADIENT, WEIGHT_GRADIENT
from planc.kernels.device import CudnnKernel, SourceKernel
from planc.kernels.pooling import AVERAGE_POOL, AVERAGE_POOL_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT

needs_compiler = pytest.mark.skipif(host_cuda.why_not() is not None, reason=str(host_cuda.why_not()))
RNG = np.random.default_rng(0)


def _normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def _tensor(a: Any) -> torch.Tensor:
    return torch.tensor(a.astype(np.float64), requires_grad=True)


def _close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * max(1.0, float(np.abs(wanted).max()))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions_of_any_window_are_torchs(data: st.DataObject) -> None:
    n, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    sizes = st.integers(1, 3)
    kernel, strides, dilations, padding = (
        tuple(data.draw(s) for _ in range(n)) for s in (sizes, sizes, st.integers(1, 2), st.integers(0, 2))
    )
    image = tuple(d * (k - 1) + 1 + data.draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    batch, into, out = data.draw(sizes), group * data.draw(sizes), group * data.draw(sizes)
    x, w = _normal(batch, into, *image), _normal(out, into // group, *kernel)
    tx, tw = _tensor(x), _tensor(w)
    y = getattr(torch.nn.functional, f"conv{n}d")(tx, tw, None, strides, padding, dilations, group)
    dy = _normal(*y.shape)
    y.backward(torch.tensor(dy.astype(np.float64)))
    common = {"strides": strides, "pads": padding * 2, "dilations": dilations, "group": group}
    for turn, channels_last in ((lambda a: a, 0), (last, 1)):
        for operator, operands, more, wanted in (
            (CONVOLUTION, (x, w), {}, y.detach()),
            (INPUT_GRADIENT, (dy, w), {"size": image}, tx.grad),
            (WEIGHT_GRADIENT, (x, dy), {"kernel": kernel}, tw.grad),
        ):
            arrays = [turn(a) for a in operands]
            call = call_for(operator, arrays, channels_last=channels_last, **common, **more)
            _close(by_function(call, arrays)[0], turn(wanted.numpy()))
            assert isinstance(operator.cuda(call) if operator.cuda else None, CudnnKernel)


@pytest.mark.parametrize(("relu", "added"), [(0, False), (1, False), (1, True)], ids=["plain", "relu", "add and relu"])
@needs_compiler
def test_batch_norm_and_its_kernels_are_torchs(relu: int, added: bool) -> None:
    x, residual, dy = (_normal(3, 10, 5) * 2 + 1 for _ in range(3))
    scale, bias = RNG.random(10, np.float32) + np.float32(0.5), _normal(10)
    tx, tr, ts, tb = (_tensor(a) for a in (x, residual, scale, bias))
    z = torch.nn.functional.batch_norm(tx, None, None, ts, tb, True, 0.0, 1e-5)
    z = z + tr if added else z
    z = z.relu() if relu else z
    z.backward(torch.tensor(dy.astype(np.float64)))
    arrays = [last(x), scale, bias, *([last(residual)] if added else [])]
    forward = call_for(BATCH_NORM, arrays, relu=relu, channels_last=1)
    made = by_function(forward, arrays)
    _close(made[0], last(z.detach().numpy()))
    _by_kernels(forward, arrays, made)
    arrays = [last(dy), last(x), scale, bias, made[1], made[2], *([made[0]] if added else [])]
    gradient = call_for(BATCH_NORM_GRADIENT, arrays, relu=relu, channels_last=1)
    grads = by_function(gradient, arrays)
    wanted = [last(tx.grad.numpy()), ts.grad.numpy(), tb.grad.numpy(), *([last(tr.grad.numpy())] if added else [])]  # type: ignore[union-attr]
    for found, expected in zip(grads, wanted, strict=True):
        _close(found, expected)
    _by_kernels(gradient, arrays, grads)


def _by_kernels(call: Any, arrays: list[Any], wanted: list[Any]) -> None:
    """The kernel, and the one for addresses without alignment, make the same bits as each other, and what is wanted."""
    kernel = call.operator.cuda(call)
    assert isinstance(kernel, SourceKernel)
    assert kernel.narrow is not None
    wide, narrow = empty_like(call), empty_like(call)
    host_cuda.run(kernel, arrays, wide)
    host_cuda.run(kernel.narrow, arrays, narrow)
    for found, other, expected in zip(wide, narrow, wanted, strict=True):
        assert found.tobytes() == other.tobytes()
        _close(found.astype(np.float64), expected.astype(np.float64))


@needs_compiler
def test_batch_norm_of_what_is_no_number_is_none() -> None:
    x = last(_normal(2, 4, 3))
    x[0, 0, 1], x[1, 2, 2] = np.nan, np.inf
    arrays = [x, np.ones(4, np.float32), np.zeros(4, np.float32)]
    call = call_for(BATCH_NORM, arrays, relu=1, channels_last=1)
    kernel, outputs = call.operator.cuda(call), empty_like(call)  # type: ignore[misc]
    assert isinstance(kernel, SourceKernel)
    host_cuda.run(kernel, arrays, outputs)
    assert np.isnan(outputs[0]).any(axis=(0, 1)).tolist() == [False, True, True, False]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_pools_of_any_window_are_torchs(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 3))
    kernel, strides = (tuple(data.draw(st.integers(1, 3)) for _ in range(n)) for _ in range(2))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    image = tuple(k + data.draw(st.integers(0, 5)) for k in kernel)
    up, padded = data.draw(st.booleans()), data.draw(st.booleans())
    x = _normal(2, 3, *image)
    common = {"kernel": kernel, "strides": strides, "pads": padding * 2}
    functional = torch.nn.functional
    for operators, pool, more in (
        ((MAX_POOL, MAX_POOL_GRADIENT), lambda t: getattr(functional, f"max_pool{n}d")(t, kernel, strides, padding, 1, up),
         {"dilations": (1,) * n}),
        ((AVERAGE_POOL, AVERAGE_POOL_GRADIENT),
         lambda t: getattr(functional, f"avg_pool{n}d")(t, kernel, strides, padding, up, padded), {"padded": int(padded)}),
    ):  # fmt: skip
        tx = _tensor(x)
        y = pool(tx)
        dy = _normal(*y.shape)
        y.backward(torch.tensor(dy.astype(np.float64)))
        assert tx.grad is not None
        call = call_for(operators[0], [last(x)], size=tuple(y.shape[2:]), channels_last=1, **common, **more)
        made = by_function(call, [last(x)])
        _close(made[0], last(y.detach().numpy()))
        arrays = [last(dy), *made[1:]]
        gradient = call_for(operators[1], arrays, size=image, channels_last=1, **common, **more)
        _close(by_function(gradient, arrays)[0], last(tx.grad.numpy()))


@needs_compiler
def test_kernels_of_pools_are_their_functions() -> None:
    x = last(_normal(2, 4, 7, 6))
    common: dict[str, Any] = {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "channels_last": 1}
    for forward, gradient, more in (
        (MAX_POOL, MAX_POOL_GRADIENT, {"dilations": (1, 2)}),
        (AVERAGE_POOL, AVERAGE_POOL_GRADIENT, {"padded": 0}),
    ):
        size = (4, 5 if "dilations" in more else 6)
        call = call_for(forward, [x], size=size, **common, **more)
        made = by_function(call, [x])
        _by_kernels(call, [x], made)
        arrays = [_normal(*made[0].shape), *made[1:]]
        back = call_for(gradient, arrays, size=(7, 6), **common, **more)
        _by_kernels(back, arrays, by_function(back, arrays))


def test_a_name_is_registered_once() -> None:
    with pytest.raises(InternalError, match="'Convolution'"):
        register(OPERATORS["Convolution"])


def test_a_function_is_named_by_what_it_computes() -> None:
    types = [TensorType(TensorProto.FLOAT, (1, 2, 3, 3)), TensorType(TensorProto.FLOAT, (2, 2, 1, 1))]
    window: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1)}
    one, same, other = (function_of(CONVOLUTION.call(types, pads=(pad,) * 4, **window)).name for pad in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize(
    ("shape", "group", "words"),
    [((2, 3, 1, 1), 1, "weights"), ((2, 2, 9, 9), 1, "fits"), ((3, 1, 1, 1), 2, "multiple of 2")],
)
def test_convolutions_that_do_not_fit_are_refused(shape: tuple[int, ...], group: int, words: str) -> None:
    types = [TensorType(TensorProto.FLOAT, (1, 2, 3, 3)), TensorType(TensorProto.FLOAT, shape)]
    call = CONVOLUTION.call(types, strides=(1, 1), dilations=(1, 1), pads=(0,) * 4, group=group)
    with pytest.raises(ModelError, match=words):
        _ = call.outputs
