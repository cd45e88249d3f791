"""Gradients along a direction against differences of ONNX's reference in float64, on the data of ONNX's own tests.

Every node test of the standard whose operator has a rule or body and reads floats: its float inputs become parameters,
moved a little off points where the operator is not smooth.
"""

import re
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.training_steps import run_steps

from planc.errors import ModelError
from planc.training import Optimizer, differentiate
from planc.training.prepare.bodies import BODIES
from planc.training.rules import GRADIENTS

Arrays = dict[str, np.ndarray]

SAMPLED = 3
"""Cases of one operator that the suite runs; all were run once by raising this."""

SAID = r"not supported|needs an opset|must be a constant|not static|has no gradient"
"""What a refusal of a setting says."""

LARGEST = 20_000
"""Elements of an input."""

NOT_COMPARED = {
    "Dropout": "random",
    "Bernoulli": "random",
    "RandomNormalLike": "random",
    "RandomUniformLike": "random",
    "RoiAlign": "the reference samples in another order where sampling_ratio is 0, which is refused",
    "BatchNormalization": "statistics are state",
    "Identity": "some are sequences",
    "Cast": "to types that are no floats",
}


NARROWED, NARROW = {"AffineGrid", "GridSample"}, (3e-4, 5e-3)
"""Operators that the reference computes in float32 whatever the type; (distance, tolerance) for them."""

UNFIT = {
    "test_stft": "ONNX's shape inference does not know the default of onesided",
    "test_stft_with_window": "ONNX's shape inference does not know the default of onesided",
    "test_acos": "a point beyond the range",
    "test_asin": "a point beyond the range",
    "test_atanh": "a point beyond the range",
    "test_pow_types_float32_uint64": "ONNX Runtime has no kernel for it",
    "test_pow_types_float32_uint32": "ONNX Runtime has no kernel for it",
}


def cases() -> Iterator[tuple[str, onnx.ModelProto, list[np.ndarray]]]:
    """Node tests of one node whose operator has a gradient."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    count: dict[str, int] = {}
    for case in found:
        model = case.model
        if model is None or len(model.graph.node) != 1 or model.functions:
            continue
        node, version = model.graph.node[0], model.opset_import[0].version
        if node.op_type not in GRADIENTS | BODIES or node.op_type in NOT_COMPARED or node.domain:
            continue
        values = list(case.data_sets[0][0]) if case.data_sets else []
        if not _usable(model, values) or version > 26:
            continue
        if case.name in UNFIT:
            continue
        count[node.op_type] = count.get(node.op_type, 0) + 1
        if count[node.op_type] <= SAMPLED:
            yield case.name, model, values


def _usable(model: onnx.ModelProto, values: list[np.ndarray]) -> bool:
    """Whether floats go in and come out first, and nothing is empty."""
    if not values or not all(isinstance(v, (np.ndarray, np.generic)) for v in values):
        return False
    first = model.graph.output[0].type.tensor_type.elem_type
    floats = [v for v in values if v.dtype == np.float32 and v.size]
    return first == TensorProto.FLOAT and bool(floats) and all(0 < v.size <= LARGEST for v in values)


CASES = {name: (model, values) for name, model, values in cases()}

SETTINGS = {
    "Resize": (1, 2),
    "Clip": (1, 2),
    "Pad": (2,),
    "Pow": (1,),
    "Slice": (),
    "SoftmaxCrossEntropyLoss": (2,),
    "NegativeLogLikelihoodLoss": (2,),
}
"""Positions of float inputs that are settings, not operands."""


def _split(model: onnx.ModelProto, values: list[np.ndarray]) -> tuple[Arrays, Arrays]:
    """(parameters, other inputs) by name; parameters are moved a little."""
    node, random = model.graph.node[0], np.random.default_rng(0)
    parameters, others = {}, {}
    for info, value in zip(model.graph.input, values, strict=True):
        at = list(node.input).index(info.name)
        if value.dtype == np.float32 and at not in SETTINGS.get(node.op_type, ()):
            shift = random.uniform(0.01, 0.03, value.shape) * (1 if node.op_type != "Acosh" else 0.5)
            parameters[info.name] = (value + shift).astype(np.float32)
        else:
            others[info.name] = np.asarray(value)
    return parameters, others


def _weighted(model: onnx.ModelProto, parameters: Arrays, others: Arrays, weights: np.ndarray) -> onnx.ModelProto:
    """The sum of the first output times weights, all inputs initializers."""
    first = model.graph.output[0].name
    nodes = [
        *model.graph.node,
        helper.make_node("Mul", [first, "some.weights"], ["some.product"]),
        helper.make_node("ReduceSum", ["some.product"], ["some.total"], keepdims=0),
    ]
    tensors = {**parameters, **others, "some.weights": weights}
    graph = helper.make_graph(
        nodes, "case", [], [helper.make_tensor_value_info("some.total", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)


def _reference(model: onnx.ModelProto, parameters: Arrays, others: Arrays) -> np.ndarray:
    """The first output, computed in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for info in (*wide.graph.input, *wide.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    settings = {
        n: a.astype(np.float64) if a.dtype == np.float32 and n not in _kept(model) else a for n, a in others.items()
    }
    feeds = {**{n: a.astype(np.float64) for n, a in parameters.items()}, **settings}
    return np.asarray(ReferenceEvaluator(wide).run(None, feeds)[0], np.float64)


def _kept(model: onnx.ModelProto) -> set[str]:
    """Inputs that are float32 whatever the data: regions and scales of Resize."""
    node = model.graph.node[0]
    return set(node.input[1:3]) if node.op_type == "Resize" else set()


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_along_a_direction(name: str) -> None:
    model, values = CASES[name]
    parameters, others = _split(model, values)
    random = np.random.default_rng(1)
    shape = _reference(model, parameters, others).shape
    weights = random.standard_normal(shape).astype(np.float32)
    try:
        step = differentiate(
            _weighted(model, parameters, others, weights), loss="output",
            optimizer=Optimizer("sgd", learning_rate=1.0), parameters=list(parameters),
        )  # fmt: skip
    except ModelError as error:
        if not re.search(SAID, str(error)):
            raise
        pytest.skip(str(error))
    made = run_steps(step, {})[0]
    directions = {n: random.standard_normal(a.shape) for n, a in parameters.items()}
    gradients = {n: a - made[f"{n}.next"].astype(np.float64) for n, a in parameters.items() if f"{n}.next" in made}
    slope = sum(float((g * directions[n]).sum()) for n, g in gradients.items())
    distance, tolerance = NARROW if model.graph.node[0].op_type in NARROWED else (1e-5, 1e-3)
    moved = [
        float((_reference(model, {n: a + h * directions[n] for n, a in parameters.items()}, others) * weights).sum())
        for h in (distance, -distance)
    ]
    expected = (moved[0] - moved[1]) / (2 * distance)
    scale = sum(float(np.abs(g * directions[n]).sum()) for n, g in gradients.items())
    assert abs(slope - expected) <= tolerance * max(1.0, scale), (slope, expected)
