"""Estimated tables: every card, marked, ordered as the cards are; demands against arithmetic done by hand."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import networks

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.cards import CARDS
from planc.costs.catalogue import Demand, card_names, estimate, operator_demand
from planc.errors import UsageError
from planc.graph.graph import Graph
from planc.importer.import_model import import_model
from planc.importer.save import write_structure
from planc.kernels import TensorType
from planc.kernels.convolution import CONVOLUTION, INPUT_GRADIENT, WEIGHT_GRADIENT
from planc.training import differentiate
from planc.training.optimizers import Optimizer
from planc.zoo import ZooOptions, build_forward


@pytest.mark.parametrize("name", card_names())
def test_every_card_gives_a_marked_table_with_its_source(name: str) -> None:
    table = estimate(networks.cnn().graph, name, {})
    assert table.estimated
    assert "estimated" in table.identity
    assert table.device.memory_bytes == CARDS[name].memory_bytes
    assert len(CARDS[name].source) > 40
    table.check_model(networks.cnn().graph.content_hash, len(networks.cnn().graph.layers))
    sizes = [point.out_ns for point in table.link.points]
    assert sizes == sorted(sizes)


def test_an_unknown_card_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"abacus.*a100-40.*rtx-4090"):
        estimate(networks.cnn().graph, "abacus", {})


def test_a_faster_card_never_takes_longer() -> None:
    graph = networks.cnn().graph
    for slow, fast in (("k40c", "p100"), ("a100-40", "a100-80"), ("h100", "h200"), ("rtx-3060-12", "rtx-4090")):
        a, b = (estimate(graph, name, {}) for name in (slow, fast))
        assert all(a.layer(i).compute_ns >= b.layer(i).compute_ns for i in range(len(graph.layers)))


def test_a_plan_made_from_an_estimate_says_so() -> None:
    imported = networks.cnn()
    plan = compile_model(
        imported, estimate(imported.graph, "rtx-3060-12", imported.calls), CompileOptions("200%", "keep-all", 5)
    ).plan
    assert plan.costs.estimated
    assert plan.costs.kind == "cuda"
    assert "RTX 3060" in plan.costs.device


def _demands(graph: Graph) -> dict[str, Demand]:
    return {op.op_type: operator_demand(graph, op) for op in reversed(graph.ops)}


def test_demands_of_known_operators() -> None:
    """Conv [2,3,8,8] by [5,3,3,3] padded; Gemm [2,320] by [320,7]."""
    rng = np.random.default_rng(0)
    parameters = {"w": (5, 3, 3, 3), "v": (320, 7)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
            helper.make_node("Flatten", ["c"], ["f"], name="flat"),
            helper.make_node("Gemm", ["f", "v"], ["logits"], name="fc"),
        ],
        "known",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 7])],
        [numpy_helper.from_array(rng.random(shape, np.float32), name) for name, shape in parameters.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = _demands(import_model(differentiate(model, loss="cross-entropy", optimizer=Optimizer("sgd"))).graph)
    conv = Demand(2 * (2 * 5 * 8 * 8) * (3 * 3 * 3), 4 * (2 * 3 * 8 * 8 + 5 * 3 * 3 * 3 + 2 * 5 * 8 * 8), True)
    assert found["Conv"] == conv
    assert found["Gemm"] == Demand(2 * 2 * 320 * 7, 4 * (2 * 320 + 320 * 7 + 2 * 7), True)


def test_demands_of_own_operators_are_those_of_their_products() -> None:
    """Gradients of Conv [2,3,8,8] by [5,3,3,3] take the multiply-adds of the convolution itself."""
    x, w, y = (TensorType(TensorProto.FLOAT, shape) for shape in ((2, 3, 8, 8), (5, 3, 3, 3), (2, 5, 8, 8)))
    window = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1), "group": 1}
    calls = (
        CONVOLUTION.call([x, w], **window),
        INPUT_GRADIENT.call([y, w], size=(8, 8), **window),
        WEIGHT_GRADIENT.call([x, y], kernel=(3, 3), **window),
    )
    assert [call.operator.products(call) for call in calls] == [(2 * 5 * 8 * 8) * (3 * 3 * 3)] * 3


def test_a_card_takes_at_least_the_arithmetic_of_own_operators(tmp_path: Path) -> None:
    """A step for a card lasts as long as the multiply-adds of its convolutions at the peak rate, three times each."""
    built = build_forward("vgg16", ZooOptions(batch=8, image=64), values=False)
    step = differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("sgd"), device="cuda", parameters=built.parameters
    )
    write_structure(step, tmp_path / "vgg16.onnx")
    imported = import_model(tmp_path / "vgg16.onnx", fused=True)
    assert {call.operator.name for call in imported.calls.values()} >= {WEIGHT_GRADIENT.name, INPUT_GRADIENT.name}
    table = estimate(imported.graph, "titan-x-maxwell", imported.calls)
    channels = [(3, 64, 64), (64, 64, 64), (64, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 256, 16),
                (256, 512, 8), (512, 512, 8), (512, 512, 8), (512, 512, 4), (512, 512, 4), (512, 512, 4)]  # fmt: skip
    products = sum((2 if i == 0 else 3) * 8 * a * b * 9 * side * side for i, (a, b, side) in enumerate(channels))
    assert sum(table.layer(i).compute_ns for i in range(len(imported.graph.layers))) > 2 * products / 6.14e12 * 1e9
