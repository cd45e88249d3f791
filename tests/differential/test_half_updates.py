"""Updates of parameters that are half precision themselves: in float32, rounded once, as a float64 step would be."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_steps import session

from planc.training import Optimizer, differentiate
from planc.training.step_options import DynamicScale, StepOptions

torch = pytest.importorskip("torch")

SIZE = 512
RATE, DECAY = 0.01, 0.1

OPTIMIZERS: dict[str, tuple[Optimizer, Any]] = {
    "sgd": (Optimizer("sgd", RATE, weight_decay=DECAY), lambda p: torch.optim.SGD(p, RATE, weight_decay=DECAY)),
    "momentum": (
        Optimizer("momentum", RATE, momentum=0.9, weight_decay=DECAY),
        lambda p: torch.optim.SGD(p, RATE, 0.9, weight_decay=DECAY),
    ),
    "adam": (Optimizer("adam", RATE), lambda p: torch.optim.Adam(p, RATE)),
    "adamw": (
        Optimizer("adamw", RATE, weight_decay=DECAY),
        lambda p: torch.optim.AdamW(p, RATE, weight_decay=DECAY),
    ),
}


def _forward(w: Any, g: Any) -> onnx.ModelProto:
    """sum(w g), whose gradient is g."""
    nodes = [helper.make_node("Mul", ["w", "g"], ["p"]), helper.make_node("ReduceSum", ["p"], ["loss"], keepdims=0)]
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(g, "g")]
    outputs = [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "model", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _widened(step: onnx.ModelProto) -> onnx.ModelProto:
    """The step with its half-precision outputs cast to float32, which arrays can hold."""
    for info in step.graph.output:
        if info.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            wide = f"{info.name}.wide"
            step.graph.node.append(helper.make_node("Cast", [info.name], [wide], to=TensorProto.FLOAT))
            info.name, info.type.tensor_type.elem_type = wide, TensorProto.FLOAT
    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bfloat16_parameter_is_rounded_once(name: str) -> None:
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(SIZE).astype(ml_dtypes.bfloat16).astype(np.float32) for _ in range(2))
    rule, by_torch = OPTIMIZERS[name]
    step = differentiate(
        _forward(w, g), loss="output", optimizer=rule, parameters=["w"], precision="pure-bfloat16", device="cpu"
    )
    running = session(_widened(step))
    found = dict(zip((o.name for o in running.get_outputs()), running.run(None, {}), strict=True))["w.next.wide"]
    exact = torch.nn.Parameter(torch.tensor(w.astype(np.float64)))
    optimizer = by_torch([exact])
    exact.grad = torch.tensor(g.astype(np.float64))
    optimizer.step()
    wanted = exact.detach().numpy()
    once = wanted.astype(ml_dtypes.bfloat16).astype(np.float64)
    assert np.abs(found - wanted).sum() <= 1.0001 * np.abs(once - wanted).sum()


def test_norms_and_finiteness_of_gradients_are_repeatable_sums_on_a_card() -> None:
    w = np.ones(SIZE, np.float32)
    options = StepOptions(clip_norm=1.0, loss_scale=DynamicScale())
    step = differentiate(
        _forward(w, w), loss="output", optimizer=Optimizer("sgd", 1.0), parameters=["w"], device="cuda", options=options
    )
    scalars = [n for n in step.graph.node if n.op_type.startswith("ReduceSum") and len(n.input) == 1]
    assert len(scalars) <= 1  # the loss of the model itself
    running = session(step)
    found = dict(zip((o.name for o in running.get_outputs()), running.run(None, {}), strict=True))
    assert found["gradient_norm"] == pytest.approx(SIZE**0.5, rel=1e-6)
    np.testing.assert_allclose(found["w.next"], 1 - 1 / SIZE**0.5, rtol=1e-5)
