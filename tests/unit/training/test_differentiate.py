"""What `differentiate` accepts, refuses and writes; the models that come with the onnx package."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import random_batch, run_steps, state_pairs

from planc.errors import ModelError, UsageError
from planc.graph import annotations
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions

SGD = Optimizer("sgd", 0.1)
LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))


LARGE = 1 << 27
"""The contract's checker copies the model several times; beyond this size a network is only run."""


def linear(batch: int | str = 3, opset: int = 18, **changes: object) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    tensors = {"w": np.ones((4, 2), np.float32), "b": np.zeros(2, np.float32)}
    graph = helper.make_graph(
        changes.get("nodes", nodes),  # type: ignore[arg-type]
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_models_differentiate_and_run(path: Path) -> None:
    """Opset 9, weights made by ConstantOfShape, a softmax at the end: all nine of onnx's own test networks."""
    step = differentiate(onnx.load(path), loss="mse", optimizer=SGD)
    assert state_pairs(step)
    if step.ByteSize() < LARGE:
        assert violations(step) == []
    assert np.isfinite(run_steps(step, random_batch(step))[0]["loss"])


def test_there_are_nine_light_models() -> None:
    assert len(LIGHT) == 9


@pytest.mark.parametrize("opset", [13, 14, 17, 18, 19, 21, 23])
def test_opsets_are_brought_to_18(opset: int) -> None:
    step = differentiate(linear(opset=opset), loss="mse", optimizer=SGD)
    assert [(o.domain, o.version) for o in step.opset_import] == [("", 18)]
    assert violations(step) == []


def test_symbolic_dimensions_are_bound() -> None:
    step = differentiate(linear("batch"), loss="mse", optimizer=SGD, dims={"batch": 5})
    assert random_batch(step)["x"].shape == (5, 4)
    with pytest.raises(ModelError, match=r"'batch'.*--dim batch=16"):
        differentiate(linear("batch"), loss="mse", optimizer=SGD)


def test_shape_arithmetic_is_folded() -> None:
    """Reshape driven by Shape, Gather and Concat, as exporters write it, leaves one Reshape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    model = linear("batch", nodes=nodes)
    for name, value in {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([2, 1])}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    step = differentiate(model, loss="mse", optimizer=SGD, dims={"batch": 3})
    kinds = {n.op_type for n in step.graph.node}  # Cast: of the learning rate
    assert kinds <= {"MatMul", "Gemm", "Reshape", "Sub", "Mul", "Div", "ReduceSumSquare", "Cast"}


def test_metadata_and_names() -> None:
    step = differentiate(linear(), loss="mse", optimizer=Optimizer("adam"))
    assert state_pairs(step) == {
        "optimizer.step": "optimizer.step.next", "b": "b.next", "b.moment1": "b.moment1.next", "w": "w.next",
        "b.moment2": "b.moment2.next", "w.moment1": "w.moment1.next", "w.moment2": "w.moment2.next",
    }  # fmt: skip
    assert step.graph.output[0].name == "loss"
    ids = differentiate(linear(), loss="cross-entropy", optimizer=SGD)
    assert annotations.read_json(ids, annotations.INPUT_RANGES) == {"labels": [0, 2]}


def test_parameters_can_be_chosen() -> None:
    step = differentiate(linear(), loss="mse", optimizer=SGD, parameters=["b"])
    assert set(state_pairs(step)) == {"b"}
    with pytest.raises(ModelError, match="'q' is not a float initializer"):
        differentiate(linear(), loss="mse", optimizer=SGD, parameters=["q"])


def test_masks_and_scalars_are_not_parameters() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "mask"], ["m"]),
        helper.make_node("Mul", ["m", "half"], ["y"]),
    ]
    model = linear(nodes=nodes)
    mask = np.where(np.arange(6).reshape(3, 2) % 2 == 0, 0, -1e9).astype(np.float32)
    for name, value in {"mask": mask, "half": np.array([0.5], np.float32)}.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    assert set(state_pairs(differentiate(model, loss="mse", optimizer=SGD))) == {"w"}


def test_a_model_without_parameters_is_refused() -> None:
    model = linear(nodes=[helper.make_node("Relu", ["x"], ["y"])])
    with pytest.raises(ModelError, match="no trainable parameter"):
        differentiate(model, loss="mse", optimizer=SGD)


HIDDEN = [helper.make_node("MatMul", ["x", "w"], ["h"])]


def control_flow() -> onnx.ModelProto:
    output = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "then", [], [output])
    node = helper.make_node("If", ["c"], ["y"], name="branch", then_branch=then, else_branch=then)
    condition = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return linear(nodes=[condition, node])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (control_flow(), "'branch'.*control flow"),
        (linear(nodes=[helper.make_node("Fancy", ["x", "w"], ["y"], domain="acme", name="f")]), "acme::Fancy"),
        (linear(nodes=[helper.make_node("SequenceConstruct", ["x"], ["y"], name="s")]), "'s'.*sequences"),
        (linear(nodes=[helper.make_node("MatMul", ["w", "w"], ["y"], name="m")]), "shape inference"),
        (
            linear(nodes=[*HIDDEN, helper.make_node("Unique", ["h"], ["y"], name="d")]),
            "'d'.*as long as its input's values say",
        ),
        (
            linear(nodes=[helper.make_node("Einsum", ["x", "w"], ["y"], name="e", equation="i,ik->ik")]),
            "'e'.*does not match the equation",
        ),
    ],
    ids=["control-flow", "domain", "sequence", "inconsistent", "no-rule", "rank"],
)
def test_what_is_refused_is_named(model: onnx.ModelProto, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        differentiate(model, loss="mse", optimizer=SGD)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"loss": "mse:y"}, "unknown loss"),
        ({"device": "tpu"}, "device kind 'tpu'"),
        ({"precision": "int8"}, "unknown precision"),
        ({"outputs": ["nothing"]}, "'nothing' is no tensor"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        differentiate(linear(), **({"loss": "mse", "optimizer": SGD} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_scale": 0.0}, "loss scale must be positive"),
        ({"clip_norm": 0.0}, "bound on gradients must be positive"),
        ({"clip_value": -1.0}, "bound on gradients must be positive"),
        ({"clip_norm": 1.0, "norm_order": 1.0}, "order 2 or infinity"),
        ({"accumulate": 0}, "at least 1"),
        ({"ema_decay": 1.0}, "averaged weights"),
    ],
)
def test_wrong_step_options_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        StepOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"kind": "sgdm"}, {"learning_rate": -1.0}, {"betas": (0.9, 1.0)}])
def test_wrong_optimizers_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Optimizer(**settings)  # type: ignore[arg-type]


def test_the_loss_must_be_a_scalar_output() -> None:
    with pytest.raises(ModelError, match="must be a scalar output"):
        differentiate(linear(), loss="output", optimizer=SGD)
    with pytest.raises(ModelError, match="z is not among: y"):
        differentiate(linear(), loss="output:z", optimizer=SGD)


def test_the_forward_model_is_left_as_it_was() -> None:
    model = linear()
    before = model.SerializeToString()
    differentiate(model, loss="mse", optimizer=SGD, precision="float16")
    assert model.SerializeToString() == before


def test_colliding_products_are_refused_on_cuda() -> None:
    nodes = [helper.make_node("ScatterElements", ["w", "i", "w"], ["y"], name="g", axis=0, reduction="mul")]
    model = linear(nodes=nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 2), np.int64), "i"))
    with pytest.raises(ModelError, match=r"'g'.*colliding indices"):
        differentiate(model, loss="mse", optimizer=SGD, device="cuda", parameters=["w"])
