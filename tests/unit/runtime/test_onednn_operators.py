"""oneDNN's norms and pools in sessions on the CPU, against the operators' own functions in float64 and plain sessions."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from planc.kernels import Call, Operator, function_of, node_of, opset_id
from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.kernels.operator import TensorType
from planc.kernels.pooling import AVERAGE_POOL, AVERAGE_POOL_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT
from planc.runtime.cpu_session import cpu_session
from planc.runtime.onednn.library import onednn
from planc.runtime.onednn.operators import with_kernels
from planc.runtime.ort.sessions import faithful_options

pytestmark = pytest.mark.skipif(onednn() is None, reason="onednn-cpu-gomp is not installed")

Values = dict[str, np.ndarray[Any, Any]]


def model_of(call: Call) -> bytes:
    """A model of one call; tensors have the names of the operator's operands."""
    used = call.operator.inputs[: len(call.inputs)]
    made = [f"new_{name}" for name in call.operator.outputs[: len(call.outputs)]]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, t.dtype, t.shape) for name, t in zip(names, types, strict=True)]
        for names, types in ((used, call.inputs), (made, call.outputs))
    )
    graph = helper.make_graph([node_of(call, used, made)], "one", inputs, outputs)
    opsets = [helper.make_opsetid("", 18), opset_id()]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function_of(call)], ir_version=10)
    return bytes(model.SerializeToString())


def both(monkeypatch: pytest.MonkeyPatch, operator: Operator, values: Values, **settings: Any) -> tuple[Values, Values]:
    """What the library and what the function make of the values; the library really computes."""
    types = [TensorType(helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for v in values.values()]
    model = model_of(operator.call(types, **settings))
    opened = onnx.load_model_from_string(with_kernels(model, faithful_options()))
    assert ["_onednn" in node.op_type for node in opened.graph.node] == [True]
    sessions = [cpu_session(model)]
    monkeypatch.setattr("planc.runtime.onednn.operators.onednn", lambda: None)
    sessions.append(cpu_session(model))
    monkeypatch.undo()
    ours, theirs = ({o.name: v for o, v in zip(s.get_outputs(), s.run(None, values), strict=True)} for s in sessions)
    again = sessions[0].run(None, values)
    assert [a.tobytes() for a in again] == [v.tobytes() for v in ours.values()]
    return ours, theirs


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed + len(shape)).standard_normal(shape).astype(np.float32)


def image(last: bool, batch: int = 4, channels: int = 24, *side: int, seed: int = 0) -> np.ndarray[Any, Any]:
    side = side or (9, 7)
    return random(batch, *side, channels, seed=seed) if last else random(batch, channels, *side, seed=seed)


def close(ours: Values, theirs: Values) -> None:
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-4, atol=2e-5 * float(np.abs(value).max()), err_msg=name)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("added", [False, True])
def test_batch_norm(monkeypatch: pytest.MonkeyPatch, last: bool, relu: int, added: bool) -> None:
    values = {"x": image(last) * 3 + 1, "scale": random(24) + 2, "bias": random(24, seed=1)}
    if added:
        values["residual"] = image(last, seed=5)
    settings = {"relu": relu, "channels_last": int(last), "epsilon": 1e-3}
    ours, theirs = both(monkeypatch, BATCH_NORM, values, **settings)
    close(ours, theirs)
    if added and not relu:
        return
    values.pop("residual", None)
    gradient = {
        "dy": image(last, seed=9), **values, "mean": theirs["new_mean"], "variance": theirs["new_variance"],
        **({"y": theirs["new_y"]} if added else {}),
    }  # fmt: skip
    close(*both(monkeypatch, BATCH_NORM_GRADIENT, gradient, **settings))


def test_batch_norm_of_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    close(*both(monkeypatch, BATCH_NORM, {"x": random(40, 12), "scale": random(12), "bias": random(12)}))


POOLS = [
    {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    {"kernel": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0)},
    {"kernel": (3, 2), "strides": (1, 2), "pads": (0, 1, 2, 0)},
]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("window", POOLS, ids=[str(w["kernel"]) for w in POOLS])
def test_pools(monkeypatch: pytest.MonkeyPatch, last: bool, window: dict[str, Any]) -> None:
    x, settings = image(last), {**window, "channels_last": int(last)}
    k, s, p = window["kernel"], window["strides"], window["pads"]
    size = tuple((n + p[i] + p[i + 2] - k[i]) // s[i] + 1 for i, n in enumerate((9, 7)))
    ours, theirs = both(monkeypatch, MAX_POOL, {"x": x}, size=size, dilations=(1, 1), **settings)
    np.testing.assert_array_equal(ours["new_y"], theirs["new_y"])
    np.testing.assert_array_equal(ours["new_position"], theirs["new_position"])
    dy = image(last, 4, 24, *size, seed=3)
    gradient = {"dy": dy, "position": theirs["new_position"]}
    close(*both(monkeypatch, MAX_POOL_GRADIENT, gradient, size=(9, 7), dilations=(1, 1), **settings))
    for padded in (0, 1):
        close(*both(monkeypatch, AVERAGE_POOL, {"x": x}, size=size, padded=padded, **settings))
        close(*both(monkeypatch, AVERAGE_POOL_GRADIENT, {"dy": dy}, size=(9, 7), padded=padded, **settings))


def test_of_equal_values_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1, 6, 6, 16), np.float32)
    settings: dict[str, Any] = {**POOLS[0], "dilations": (1, 1), "channels_last": 1, "size": (3, 3)}
    ours, theirs = both(monkeypatch, MAX_POOL, {"x": x}, **settings)
    np.testing.assert_array_equal(ours["new_position"], theirs["new_position"])
