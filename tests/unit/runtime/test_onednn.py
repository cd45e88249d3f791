"""oneDNN's convolutions in sessions on the CPU, against torch in float64 and against the operators' own functions."""

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from planc.kernels import Call, function_of, node_of, opset_id
from planc.kernels.convolution import CONVOLUTION, INPUT_GRADIENT, WEIGHT_GRADIENT
from planc.kernels.operator import TensorType
from planc.runtime.cpu_session import cpu_session
from planc.runtime.onednn.library import onednn
from planc.runtime.onednn.operators import with_kernels, workspace_bytes
from planc.runtime.ort import custom_ops
from planc.runtime.ort.sessions import faithful_options

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(onednn() is None, reason="onednn-cpu-gomp is not installed")


def model_of(call: Call) -> onnx.ModelProto:
    """A model of one call, with inputs a and b and output y."""
    infos = [helper.make_tensor_value_info(n, t.dtype, t.shape) for n, t in zip("ab", call.inputs, strict=True)]
    (out,) = call.outputs
    graph = helper.make_graph(
        [node_of(call, ["a", "b"], ["y"])], "one", infos, [helper.make_tensor_value_info("y", out.dtype, out.shape)]
    )
    opsets = [helper.make_opsetid("", 18), opset_id()]
    return helper.make_model(graph, opset_imports=opsets, functions=[function_of(call)], ir_version=10)


@st.composite
def cases(draw: Any) -> tuple[Any, ...]:
    """Shapes and settings of a convolution: one to three spatial axes, groups, strides, dilations, uneven pads."""
    axes, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    many = st.lists
    kernel = draw(many(st.integers(1, 3), min_size=axes, max_size=axes))
    strides = draw(many(st.integers(1, 3), min_size=axes, max_size=axes))
    dilations = draw(many(st.integers(1, 2), min_size=axes, max_size=axes))
    pads = draw(many(st.integers(0, 2), min_size=axes, max_size=axes))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    size = [max(r, draw(st.integers(1, 9))) for r in reach]
    batch, share, out = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 4, 16]))
    layout = draw(st.sampled_from([(0, 0), (1, 0), (1, 1)]))
    return batch, share * group, out * group, group, kernel, strides, dilations, pads, size, layout


def stored(value: np.ndarray, last: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(value, 1, -1)) if last else value


@settings(max_examples=60, deadline=None)
@given(cases())
def test_all_three_are_those_of_torch_in_float64(case: tuple[Any, ...]) -> None:
    batch, c, o, group, kernel, strides, dilations, pads, size, (last, weights_first) = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, c, *size)).astype(np.float32)
    w = rng.standard_normal((o, c // group, *kernel)).astype(np.float32)
    tx, tw = (torch.from_numpy(v).double().requires_grad_() for v in (x, w))
    conv = getattr(torch.nn.functional, f"conv{len(kernel)}d")
    y = conv(tx, tw, None, strides, pads, dilations, group)
    dy = rng.standard_normal(tuple(y.shape)).astype(np.float32)
    y.backward(torch.from_numpy(dy).double())
    common: dict[str, Any] = {
        "strides": tuple(strides), "dilations": tuple(dilations), "pads": (*pads, *pads), "group": group,
        "channels_last": last, "weights_first": weights_first,
    }  # fmt: skip
    for operator, a, b, more, expected in (
        (CONVOLUTION, x, w, {}, y.detach()),
        (INPUT_GRADIENT, dy, w, {"size": tuple(size)}, tx.grad),
        (WEIGHT_GRADIENT, x, dy, {"kernel": tuple(kernel)}, tw.grad),
    ):
        turned = [last and not (weights_first and name.endswith("w")) for name in (*operator.inputs, *operator.outputs)]
        feeds = {"a": stored(a, turned[0]), "b": stored(b, turned[1])}
        types = [TensorType(TensorProto.FLOAT, v.shape) for v in feeds.values()]
        model = model_of(operator.call(types, **common, **more)).SerializeToString()
        (got,) = cpu_session(model).run(None, feeds)
        want = stored(expected.numpy(), turned[2])
        scale = max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(got / scale, want / scale, atol=2e-5)


THREE = [
    (CONVOLUTION, ((4, 64, 28, 28), (64, 64, 3, 3)), {}),
    (INPUT_GRADIENT, ((4, 64, 28, 28), (64, 64, 3, 3)), {"size": (28, 28)}),
    (WEIGHT_GRADIENT, ((4, 64, 28, 28), (4, 64, 28, 28)), {"kernel": (3, 3)}),
]


def resnet_layer(position: int) -> Call:
    """One of the three of a 3x3 convolution of 64 channels on 28x28."""
    operator, shapes, more = THREE[position]
    types = [TensorType(TensorProto.FLOAT, shape) for shape in shapes]
    return operator.call(types, strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1), **more)


@pytest.mark.parametrize("position", range(3), ids=lambda k: THREE[k][0].name)
def test_the_library_computes_with_a_workspace_of_the_session_and_repeats_its_bits(position: int) -> None:
    call = resnet_layer(position)
    model = model_of(call)
    opened = onnx.load_model_from_string(with_kernels(model.SerializeToString(), faithful_options()))
    assert ["_onednn_" in node.op_type for node in opened.graph.node] == [True]
    assert not opened.functions
    assert workspace_bytes(model.SerializeToString()) > 0
    rng = np.random.default_rng(1)
    feeds = {n: rng.standard_normal(t.shape, np.float32) for n, t in zip("ab", call.inputs, strict=True)}
    first, second = (cpu_session(model.SerializeToString()).run(None, feeds)[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_model_without_the_library_keeps_its_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(resnet_layer(0)).SerializeToString()
    rng = np.random.default_rng(2)
    feeds = {
        "a": rng.standard_normal((4, 64, 28, 28), np.float32),
        "b": rng.standard_normal((64, 64, 3, 3), np.float32),
    }
    (by_library,) = cpu_session(model).run(None, feeds)
    monkeypatch.setattr("planc.runtime.onednn.operators.onednn", lambda: None)
    assert with_kernels(model, faithful_options()) == model
    (by_function,) = cpu_session(model).run(None, feeds)
    np.testing.assert_allclose(by_library, by_function, rtol=1e-4, atol=1e-4)


def test_a_pool_whose_threads_take_every_part_does_not_wait_for_itself() -> None:
    """In a pool of more threads than the process has cores, the others may be faster than the caller."""

    def by_others(_context: int, part: Any, parts: int, _batches: int, data: Any) -> int:
        others = [threading.Thread(target=part, args=(data, k)) for k in range(parts)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        return 0

    ran: list[int] = []
    api = replace(custom_ops._api(), parallel=by_others)
    custom_ops._alone(api, 0, 2, lambda: ran.append(threading.get_ident()))
    assert ran == [threading.get_ident()]
