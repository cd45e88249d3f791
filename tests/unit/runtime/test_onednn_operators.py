"""oneDNN's norms, pools and GELU in sessions on the CPU, against torch in float64, the functions, and plain sessions."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from planc.kernels import Call, Operator, function_of, node_of, opset_id
from planc.kernels.adam import ADAM
from planc.kernels.attention import ATTENTION, ATTENTION_GRADIENT
from planc.kernels.batch_norm import BATCH_NORM, BATCH_NORM_GRADIENT
from planc.kernels.embedding_gradient import EMBEDDING_GRADIENT
from planc.kernels.gelu import GELU, GELU_GRADIENT
from planc.kernels.layer_norm import LAYER_NORM, LAYER_NORM_GRADIENT
from planc.kernels.operator import TensorType
from planc.kernels.pooling import AVERAGE_POOL, AVERAGE_POOL_GRADIENT, MAX_POOL, MAX_POOL_GRADIENT
from planc.runtime.cpu_session import cpu_session
from planc.runtime.onednn.library import onednn
from planc.runtime.onednn.operators import programs_of, with_kernels
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


def float64(values: Values, leaves: tuple[str, ...]) -> Any:
    """The values as float64 tensors of torch, those named with gradients."""
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(v).double().requires_grad_(name in leaves) for name, v in values.items()}


def close_to_torch(ours: Values, expected: dict[str, Any]) -> None:
    close(ours, {name: value.detach().numpy() for name, value in expected.items()})


@pytest.mark.parametrize("shape", [(16, 96, 256), (7, 33), (1, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], biased: bool) -> None:
    torch = pytest.importorskip("torch")
    width = shape[-1:]
    values = {"x": random(*shape) * 3 + 1, "scale": random(*width) + 2}
    if biased:
        values["bias"] = random(*width, seed=4)
    ours, theirs = both(monkeypatch, LAYER_NORM, values, epsilon=1e-3)
    close(ours, theirs)
    t = float64(values, ("x", "scale", "bias"))
    y = torch.nn.functional.layer_norm(t["x"], width, t["scale"], t.get("bias"), 1e-3)
    close_to_torch(ours, {"new_y": y})
    dy = random(*shape, seed=9)
    y.backward(torch.from_numpy(dy).double())
    gradient = {"dy": dy, "x": values["x"], "scale": values["scale"], "statistics": ours["new_statistics"]}
    ours, theirs = both(monkeypatch, LAYER_NORM_GRADIENT, gradient, epsilon=1e-3)
    close(ours, theirs)
    close_to_torch(ours, {"new_dx": t["x"].grad, "new_dscale": t["scale"].grad})
    np.testing.assert_allclose(ours["new_dbias"], dy.reshape(-1, *width).sum(0, np.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tanh", [0, 1])
@pytest.mark.parametrize("shape", [(16, 96, 256), (7,), ()])
def test_gelu(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], tanh: int) -> None:
    torch = pytest.importorskip("torch")
    values = {"x": np.asarray(random(*shape) * 4)}
    ours, theirs = both(monkeypatch, GELU, values, tanh=tanh)
    close(ours, theirs)
    t = float64(values, ("x",))
    y = torch.nn.functional.gelu(t["x"], approximate="tanh" if tanh else "none")
    close_to_torch(ours, {"new_y": y})
    dy = np.asarray(random(*shape, seed=9))
    y.backward(torch.from_numpy(dy).double())
    ours, theirs = both(monkeypatch, GELU_GRADIENT, {"dy": dy, **values}, tanh=tanh)
    close(ours, theirs)
    close_to_torch(ours, {"new_dx": t["x"].grad})


@pytest.mark.parametrize("operator", [GELU, GELU_GRADIENT, LAYER_NORM, LAYER_NORM_GRADIENT, ADAM], ids=lambda o: o.name)
def test_results_may_lie_over_operands(operator: Operator) -> None:
    """Where the operator says so: the bits are those of results apart."""
    library, big, row = onednn(), TensorType(1, (2048, 256)), TensorType(1, (256,))
    kinds = {"scale": row, "bias": row, "statistics": TensorType(1, (2048, 2)), "scalars": TensorType(1, (7,))}
    used = [name for name in operator.inputs if name != "addend"]
    call = operator.call([kinds.get(name, big) for name in used])
    assert library is not None
    _, program = next(programs_of(library, call))
    workspace = np.zeros(program.workspace + 64, np.uint8)

    def run(over: int | None) -> list[bytes]:
        operands = [np.abs(random(*kinds.get(name, big).shape, seed=k)) + 1 for k, name in enumerate(used)]
        results = [np.zeros(t.shape, np.float32) for t in call.outputs]
        if over is not None:
            results[0] = operands[over]
        program.run([a.ctypes.data for a in (*operands, *results, workspace)])
        return [a.tobytes() for a in results]

    for position in operator.in_place:
        if position < len(used):
            assert run(position) == run(None)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize("based", [False, True])
def test_rows_are_added_as_a_scatter_adds_them(monkeypatch: pytest.MonkeyPatch, kind: Any, based: bool) -> None:
    numbers = np.random.default_rng(1).integers(-9, 9, 300).astype(kind)
    values = {"ids": numbers, "dy": random(300, 96)}
    if based:
        values["base"] = random(9, 96, seed=3)
    ours, theirs = both(monkeypatch, EMBEDDING_GRADIENT, values, count=9)
    assert ours["new_dtable"].tobytes() == theirs["new_dtable"].tobytes()


ATTENTIONS: list[dict[str, Any]] = [
    {"sizes": (4, 3, 40, 40, 64), "heads_last": 1},
    {"sizes": (3, 5, 72, 33, 16), "heads_last": 0},
    {"sizes": (1, 4, 300, 300, 24), "heads_last": 1, "causal": 1},
    {"sizes": (2, 2, 33, 33, 8), "heads_last": 1, "bias": (2, 1, 33, 33), "causal": 1},
    {"sizes": (16, 4, 64, 64, 32), "heads_last": 1, "bias": (1, 64)},
    {"sizes": (5, 3, 20, 24, 8), "heads_last": 0, "bias": (1, 3, 20, 24)},
]


@pytest.mark.parametrize("case", ATTENTIONS, ids=str)
def test_attention(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    batch, heads, rows, columns, width = case["sizes"]
    last, causal = case["heads_last"], case.get("causal", 0)
    settings: dict[str, Any] = {"scale": 0.3, "causal": causal, "heads_last": last}

    def stored(length: int, seed: int) -> np.ndarray[Any, Any]:
        return random(*((batch, length, heads, width) if last else (batch, heads, length, width)), seed=seed)

    def planar(a: Any) -> Any:
        return a.transpose(1, 2) if last else a

    values = {"q": stored(rows, 1), "k": stored(columns, 2), "v": stored(columns, 3)}
    bias = (
        {"bias": np.where(random(*case["bias"], seed=4) > 1, -np.inf, random(*case["bias"]))} if "bias" in case else {}
    )
    bias = {name: v.astype(np.float32) for name, v in bias.items()}
    ours, theirs = both(monkeypatch, ATTENTION, {**values, **bias}, **settings)
    close(ours, theirs)
    t = float64({**values, **bias}, ("q", "k", "v"))
    scores = planar(t["q"]) @ planar(t["k"]).transpose(-1, -2) * 0.3 + t.get("bias", 0.0)
    if causal:
        scores = scores.masked_fill(torch.ones(rows, columns, dtype=torch.bool).triu(1), -torch.inf)
    y = planar(scores.softmax(-1) @ planar(t["v"]))
    close_to_torch(ours, {"new_y": y, "new_stats": scores.logsumexp(-1)})
    dy = stored(rows, 9)
    y.backward(torch.from_numpy(dy).double())
    gradient = {"dy": dy, **values, "y": ours["new_y"], "stats": ours["new_stats"], **bias}
    ours, theirs = both(monkeypatch, ATTENTION_GRADIENT, gradient, **settings)
    close(ours, theirs)
    close_to_torch(ours, {f"new_d{name}": t[name].grad for name in "qkv"})


def test_attention_to_keys_that_are_all_hidden_by_a_finite_number(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: random(2, 6, 3, 8, seed=k) for k, name in enumerate("qkv")}
    bias = np.zeros((2, 1, 6, 6), np.float32)
    bias[:, :, 2:4] = np.finfo(np.float32).min
    settings: dict[str, Any] = {"scale": 0.5, "heads_last": 1}
    ours, theirs = both(monkeypatch, ATTENTION, {**values, "bias": bias}, **settings)
    close(ours, theirs)
    gradient = {
        "dy": random(2, 6, 3, 8, seed=9),
        **values,
        "y": ours["new_y"],
        "stats": ours["new_stats"],
        "bias": bias,
    }
    close(*both(monkeypatch, ATTENTION_GRADIENT, gradient, **settings))


@pytest.mark.parametrize("shape", [(300, 256), (5,), ()])
def test_an_update_of_adam_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    values = {name: np.asarray(random(*shape, seed=k)) for k, name in enumerate(("parameter", "moment1"))}
    values |= {"moment2": np.asarray(random(*shape, seed=5) ** 2), "gradient": np.asarray(random(*shape, seed=6))}
    t = float64(values, ("parameter",))
    optimizer = torch.optim.AdamW([t["parameter"]], lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    optimizer.state[t["parameter"]] = {
        "step": torch.tensor(3.0), "exp_avg": t["moment1"].clone(), "exp_avg_sq": t["moment2"].clone()
    }  # fmt: skip
    t["parameter"].grad = t["gradient"]
    scalars = [0.8, 0.2, 0.95, 0.05, 0.01 / (1 - 0.8**4), (1 - 0.95**4) ** -0.5, 1 - 0.01 * 0.1]
    ours, theirs = both(monkeypatch, ADAM, {**values, "scalars": np.array(scalars, np.float32)}, eps=1e-6)
    close(ours, theirs)
    optimizer.step()
    kept = optimizer.state[t["parameter"]]
    expected = {"parameter": t["parameter"], "moment1": kept["exp_avg"], "moment2": kept["exp_avg_sq"]}
    close_to_torch(ours, {f"new_new_{name}": value for name, value in expected.items()})
