"""Every standard operator that yields floats has a gradient rule, a function body, or a refusal that says why."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

from planc.errors import ModelError
from planc.training import Optimizer, differentiate
from planc.training.prepare.bodies import BODIES
from planc.training.refused import REFUSED
from planc.training.rules import GRADIENTS

CASES = pytest.importorskip("support.rule_cases")


def yields_floats(schema: defs.OpSchema) -> bool:
    """Whether some input and some output may be float32."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}

    def floats(formal: list[defs.OpSchema.FormalParameter]) -> bool:
        return any("tensor(float)" in allowed.get(f.type_str, {f.type_str}) for f in formal)

    return floats(schema.inputs) and floats(schema.outputs)


STANDARD = {
    s.name: s for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated and yields_floats(s)
}  # fmt: skip
BODIED = {name for name, s in STANDARD.items() if s.has_function or s.has_context_dependent_function}
TESTED = {case.op for case in CASES.FURTHER} | {
    "Attention", "GroupNormalization", "Mish", "RMSNormalization", "Selu", "Bernoulli", "CausalConvWithState",
    "LinearAttention", "SwiGLU",
}  # fmt: skip
"""Operators whose ONNX body some test differentiates; the last four are beyond opset 23 or random."""


def test_none_is_left_out() -> None:
    assert set(STANDARD) - set(GRADIENTS) - set(BODIES) - set(REFUSED) - BODIED == set()


def test_none_has_two_answers() -> None:
    assert (set(GRADIENTS) | set(BODIES)) & set(REFUSED) == set()
    assert set(GRADIENTS) & set(BODIES) == {"ScatterND"}  # by the rule without reduction, else by the body


def test_every_body_of_onnx_is_differentiated_by_some_test() -> None:
    assert BODIED - set(GRADIENTS) - set(REFUSED) - TESTED == set()


def test_refusals_name_operators_that_there_are() -> None:
    assert set(REFUSED) <= {s.name for s in defs.get_all_schemas() if s.domain == ""}


def _through(op: str, inputs: list[str], opset: int, constants: dict[str, np.ndarray], **attributes: object) -> str:
    """What differentiation says of a parameter that goes through an operator."""
    outputs = ["q", "y", "zero"] if op == "DynamicQuantizeLinear" else ["y"]
    nodes = [
        helper.make_node(op, inputs, outputs, name="here", **attributes),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    tensors = {"w": np.ones((1, 2, 6, 6), np.float32), **constants}
    graph = helper.make_graph(
        nodes, "refused", [], [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    with pytest.raises(ModelError) as raised:
        differentiate(model, loss="output", optimizer=Optimizer("sgd"), parameters=["w"])
    return str(raised.value)


ROIS = np.array([[0, 0, 0, 3, 3]], np.float32)
KERNEL, OFFSET = np.ones((2, 2, 1, 1), np.float32), np.zeros((1, 2, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("op", "inputs", "opset", "constants", "attributes"),
    [
        ("MaxRoiPool", ["w", "rois"], 18, {"rois": ROIS}, {"pooled_shape": [2, 2]}),
        ("DeformConv", ["w", "k", "o"], 19, {"k": KERNEL, "o": OFFSET}, {}),
        ("Compress", ["w", "c"], 18, {"c": np.array([True, False])}, {"axis": 1}),
        ("Unique", ["w"], 18, {}, {}),
        ("DynamicQuantizeLinear", ["w"], 18, {}, {}),
    ],
)
def test_a_refusal_names_node_and_reason(
    op: str, inputs: list[str], opset: int, constants: dict[str, np.ndarray], attributes: dict[str, object]
) -> None:
    said = _through(op, inputs, opset, constants, **attributes)
    assert "'here'" in said
    assert op in said
    assert REFUSED[op] in said


def test_types_of_constants_are_kept() -> None:
    """A body in float64 has float64 numbers."""
    nodes = [
        helper.make_node("LpPool", ["w"], ["y"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "wide", [], [helper.make_tensor_value_info("total", TensorProto.DOUBLE, [])],
        [numpy_helper.from_array(np.ones((1, 1, 4, 4)), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    step = differentiate(model, loss="output", optimizer=Optimizer("sgd"), parameters=["w"])
    onnx.checker.check_model(step, full_check=True)
