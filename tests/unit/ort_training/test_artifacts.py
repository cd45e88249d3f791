"""Whole training artifacts of ONNX Runtime: against torch, in plans, with symbolic dimensions, on the command line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.plans import random_plan
from support.training_contract import violations
from support.training_steps import random_batch, run_steps, state_pairs

from planc.cli.main import main
from planc.errors import ModelError
from planc.graph.annotations import node_annotation
from planc.importer.import_model import import_model
from planc.ort_training.artifacts import import_artifacts
from planc.runtime.measure import measure
from planc.runtime.step import load

SAMPLES = Path(__file__).parents[2] / "data" / "ort_artifacts"


def sample(network: str, optimizer: str, **options: Any) -> onnx.ModelProto:
    training = onnx.load(SAMPLES / f"{network}_training_model.onnx")
    return import_artifacts(training, onnx.load(SAMPLES / f"{network}_{optimizer}_optimizer.onnx"), **options)


def initial_state(step: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in step.graph.initializer if t.name in state_pairs(step)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("network", ["cnn", "gpt"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_graph_keeps_the_contract(network: str, optimizer: str, device: str) -> None:
    assert violations(sample(network, optimizer, device=device)) == []


@pytest.mark.parametrize(("network", "optimizer", "rate"), [("cnn", "sgd", 0.05), ("gpt", "adamw", 0.01)])
def test_losses_fall_and_plans_compute_the_same_bits(network: str, optimizer: str, rate: float) -> None:
    step = sample(network, optimizer, learning_rate=rate)
    losses = [float(made["loss"]) for made in run_steps(step, random_batch(step), 10)]
    assert losses[-1] < 0.5 * losses[0]
    imported = import_model(step)
    for seed in range(2):
        with load(random_plan(imported, seed), imported) as planned:
            assert measure(planned, steps=3, seed=seed, compare=True).bitwise_equal is True


def test_layers_come_from_the_nodes_names() -> None:
    groups = {node_annotation(n) for n in sample("gpt", "sgd").graph.node}
    for phase in ("forward", "backward"):
        assert {
            ("l.0.attention", "attention", phase),
            ("l.1.qkv", "linear", phase),
            ("ln", "layer-norm", phase),
        } <= groups
    assert ("wte", "embedding", "update") in groups


# --- against torch in float64


def torch_cnn(parameters: Mapping[str, Any], x: Any) -> Any:
    """The network that `cnn_training_model.onnx` trains."""
    F = pytest.importorskip("torch.nn.functional")
    y = F.conv2d(x, parameters["c1.weight"], parameters["c1.bias"], padding=1)
    y = F.batch_norm(y, None, None, parameters["b1.weight"], parameters["b1.bias"], training=True)
    y = F.conv2d(F.max_pool2d(F.relu(y), 2), parameters["c2.weight"], None, 2, 1)
    y = F.relu(F.batch_norm(y, None, None, parameters["b2.weight"], parameters["b2.bias"], training=True))
    return F.linear(y.flatten(1), parameters["fc.weight"], parameters["fc.bias"])


def torch_gpt(parameters: Mapping[str, Any], ids: Any) -> Any:
    """The network that `gpt_training_model.onnx` trains: two blocks, two heads, a tied head."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    n, t = ids.shape
    x = parameters["wte.weight"][ids] + parameters["wpe.weight"]
    for block in ("l.0", "l.1"):
        p = {name.removeprefix(f"{block}."): v for name, v in parameters.items() if name.startswith(block)}
        y = F.linear(F.layer_norm(x, (32,), p["ln1.weight"], p["ln1.bias"]), p["qkv.weight"], p["qkv.bias"])
        q, k, v = (part.view(n, t, HEADS, -1).transpose(1, 2) for part in y.split(32, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, 32)
        x = x + F.linear(y, p["o.weight"], p["o.bias"])
        y = F.linear(F.layer_norm(x, (32,), p["ln2.weight"], p["ln2.bias"]), p["f1.weight"], p["f1.bias"])
        x = x + F.linear(F.gelu(y, approximate="tanh"), p["f2.weight"], p["f2.bias"])
    x = F.layer_norm(x, (32,), parameters["ln.weight"], parameters["ln.bias"])
    return F.linear(x, parameters["wte.weight"]).flatten(0, 1)


HEADS = 4
NETWORKS = {"cnn": torch_cnn, "gpt": torch_gpt}


def torch_gradients(network: str, state: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Loss and gradients by autograd in float64."""
    torch = pytest.importorskip("torch")
    parameters = {
        n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in state.items() if "running" not in n
    }
    x = torch.tensor(batch["x"])
    logits = NETWORKS[network](parameters, x.double() if x.is_floating_point() else x)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(batch["labels"]))
    loss.backward()
    return {"loss": loss.detach().numpy(), **{n: p.grad.numpy() for n, p in parameters.items()}}


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_match_autograd(network: str) -> None:
    step = sample(network, "sgd", learning_rate=1.0)
    before, batch = initial_state(step), random_batch(step)
    (made,) = run_steps(step, batch)
    expected = torch_gradients(network, before, batch)
    np.testing.assert_allclose(made["loss"], expected.pop("loss"), rtol=1e-6)
    largest = max(np.abs(g).max() for g in expected.values())
    for name, gradient in expected.items():
        found = before[name] - made[state_pairs(step)[name]]
        np.testing.assert_allclose(found, gradient, atol=2e-6 * largest, rtol=1e-5, err_msg=name)


def test_running_statistics_move_with_the_biased_variance() -> None:
    step = sample("cnn", "sgd")
    before, batch = initial_state(step), random_batch(step)
    (made,) = run_steps(step, batch)
    torch = pytest.importorskip("torch")
    weights = [torch.tensor(before[f"c1.{name}"]) for name in ("weight", "bias")]
    y = torch.nn.functional.conv2d(torch.tensor(batch["x"]), *weights, padding=1).numpy()
    np.testing.assert_allclose(made["b1.running_mean.next"], 0.1 * y.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(made["b1.running_var.next"], 0.9 + 0.1 * y.var((0, 2, 3)), rtol=1e-5)


# --- optimizers


def edited_optimizer(**attributes: Any) -> onnx.ModelProto:
    """The AdamW model with other attributes."""
    model = onnx.load(SAMPLES / "cnn_adamw_optimizer.onnx")
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in attributes.items())])
    return model


def clipped_optimizer(max_norm: float) -> onnx.ModelProto:
    """SGD whose gradients are clipped first."""
    model = onnx.load(SAMPLES / "cnn_sgd_optimizer.onnx")
    clip = helper.make_node(
        "InplaceClipGradNorm", ["gradients"], ["clipped"], domain="com.microsoft", max_norm=max_norm, name="clip"
    )
    nodes = [clip, *model.graph.node]
    nodes[1].input[2] = "clipped"
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def adamw(gradients: Iterator[np.ndarray], w: np.ndarray, after: bool, corrected: bool) -> np.ndarray:
    """AdamW of rate 0.01, decay 0.1, epsilon 1e-6 in float64, both variants written out."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        first, second = (1 - 0.9**t, 1 - 0.999**t) if corrected else (1.0, 1.0)
        if after:
            w = w - 0.01 * np.sqrt(second) / first * m / (np.sqrt(v) + 1e-6)
            w = w - 0.01 * 0.1 * w
        else:
            w = w - 0.01 * 0.1 * w
            w = w - 0.01 / first * m / (np.sqrt(v / second) + 1e-6)
    return w


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_both_kinds_of_adamw(after: bool, corrected: bool) -> None:
    training = onnx.load(SAMPLES / "cnn_training_model.onnx")
    update = edited_optimizer(adam_mode=int(after), correct_bias=int(corrected), weight_decay=0.1)
    step = import_artifacts(training, update, learning_rate=0.01)
    assert violations(step) == []
    state, batch, pairs, seen = initial_state(step), random_batch(step), state_pairs(step), []
    start = state["fc.weight"].astype(np.float64)
    for made in run_steps(step, batch, 4):
        trained = {n: v for n, v in state.items() if "moment" not in n and n != "optimizer.step"}
        seen.append(torch_gradients("cnn", trained, batch)["fc.weight"])
        state = {name: made[following] for name, following in pairs.items()}
    np.testing.assert_allclose(state["fc.weight"], adamw(iter(seen), start, after, corrected), atol=2e-5)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_are_clipped_by_their_common_norm(max_norm: float) -> None:
    step = import_artifacts(
        onnx.load(SAMPLES / "cnn_training_model.onnx"), clipped_optimizer(max_norm), learning_rate=1.0
    )
    before, batch = initial_state(step), random_batch(step)
    (made,) = run_steps(step, batch)
    expected = torch_gradients("cnn", before, batch)
    del expected["loss"]
    norm = np.sqrt(sum((g**2).sum() for g in expected.values()))
    for name, gradient in expected.items():
        found = before[name] - made[state_pairs(step)[name]]
        np.testing.assert_allclose(found, gradient * min(1, max_norm / norm), atol=2e-5, err_msg=name)


# --- inputs


def symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    """The batch dimension of `x` and `labels` without a size."""
    for info in model.graph.input:
        if info.name in ("x", "labels"):
            info.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def test_a_symbolic_batch_is_bound_and_shape_driven_reshapes_are_folded() -> None:
    training = symbolic(onnx.load(SAMPLES / "cnn_training_model.onnx"))
    update = onnx.load(SAMPLES / "cnn_sgd_optimizer.onnx")
    flatten = next(n for n in training.graph.node if n.op_type == "Flatten")
    shaped = [
        helper.make_node("Shape", [flatten.input[0]], ["s"], name="/Shape"),
        helper.make_node("Gather", ["s", "zero"], ["rows"], name="/Gather", axis=0),
        helper.make_node("Unsqueeze", ["rows", "zeros"], ["rows1"], name="/Unsqueeze"),
        helper.make_node("Concat", ["rows1", "minus"], ["wanted"], name="/Concat", axis=0),
        helper.make_node("Reshape", [flatten.input[0], "wanted"], list(flatten.output), name="/Reshape"),
    ]
    nodes = [made for n in training.graph.node for made in (shaped if n.name == flatten.name else [n])]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del training.graph.node[:]
    training.graph.node.extend(copies)
    for name, value in {"zero": np.array(0), "zeros": np.array([0]), "minus": np.array([-1])}.items():
        training.graph.initializer.append(numpy_helper.from_array(value, name))
    step = import_artifacts(training, update, dims={"batch": 6}, learning_rate=1.0)
    assert violations(step) == []
    before, batch = initial_state(step), random_batch(step)
    assert batch["x"].shape == (6, 3, 16, 16)
    (made,) = run_steps(step, batch)
    expected = torch_gradients("cnn", before, batch)
    np.testing.assert_allclose(before["fc.weight"] - made["fc.weight.next"], expected["fc.weight"], atol=1e-5)
    with pytest.raises(ModelError, match=r"dimension 0 \(batch\) is not bound; give its size, e.g. --dim batch=16"):
        import_artifacts(training, update)


def test_given_weights_are_the_initial_values() -> None:
    given = {"fc.bias": np.arange(10, dtype=np.float32), "unknown": np.zeros(3, np.float32)}
    np.testing.assert_array_equal(initial_state(sample("cnn", "sgd", weights=given))["fc.bias"], given["fc.bias"])
    with pytest.raises(ModelError, match=r"give 'fc.bias' shape \[3\], but the model has \[10\]"):
        sample("cnn", "sgd", weights={"fc.bias": np.zeros(3, np.float32)})


# --- the command


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["planc", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pair = SAMPLES / "cnn_training_model.onnx", SAMPLES / "cnn_adamw_optimizer.onnx"
    weights = tmp_path / "forward.onnx"
    value = numpy_helper.from_array(np.full(10, 3, np.float32), "fc.bias")
    node = helper.make_node("Relu", ["fc.bias"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [], [value])), weights)
    options = ("--learning-rate", "0.5", "--weights", weights, "--json")
    assert call(monkeypatch, "import-ort", *pair, "-o", tmp_path / "train.onnx", *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    step = onnx.load(tmp_path / "train.onnx")
    assert json.loads(captured.out)["nodes"] == len(step.graph.node)
    assert initial_state(step)["fc.bias"].tolist() == [3] * 10


@pytest.mark.parametrize(
    ("swapped", "said"),
    [(False, "Conv is no part of an optimizer model"), (True, "it is no artifact of onnxruntime-training")],
)
def test_the_command_refuses_other_models(
    swapped: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "cnn_adamw_optimizer" if swapped else "cnn_training_model"
    pair = [SAMPLES / f"{name}.onnx"] * 2
    assert call(monkeypatch, "import-ort", *pair, "-o", tmp_path / "train.onnx") == 3
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "train.onnx").exists()
