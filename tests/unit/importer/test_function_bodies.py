"""Operators that ONNX Runtime would replace by their function bodies are replaced before anything is planned."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, defs, helper
from onnx.backend.test.loader import load_model_tests
from support.graphs import step_model

from planc.errors import ModelError
from planc.graph.functions import INLINED
from planc.importer.import_model import import_model
from planc.runtime.ort.sessions import faithful_options

NEWEST = 22
"""The newest operator set that ONNX Runtime 1.31.1 knows all kernels of."""


def _single_functions() -> dict[str, onnx.ModelProto]:
    """One model of a single function operator per operator, from ONNX's own tests."""
    found: dict[str, onnx.ModelProto] = {}
    for case in load_model_tests(kind="node"):
        model = case.model
        if model is None or len(model.graph.node) != 1:
            continue
        node, version = model.graph.node[0], model.opset_import[0].version
        if node.domain or version > NEWEST or node.op_type.startswith("Sequence"):
            continue
        schema = defs.get_schema(node.op_type, version, "")
        if schema.has_function or schema.has_context_dependent_function:
            found.setdefault(node.op_type, model)
    return found


@pytest.mark.slow  # ONNX makes all its operator tests to find these
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_list_is_what_the_runtime_inlines(tmp_path: Path) -> None:
    saved = tmp_path / "run.onnx"
    for name, model in _single_functions().items():
        options = faithful_options()
        options.optimized_model_filepath = str(saved)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # types that no kernel has
            continue
        kept = name in {n.op_type for n in onnx.load(saved).graph.node}
        assert kept == (name not in INLINED), name


X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 3])
CALLS = {
    "HardSwish": helper.make_node("HardSwish", ["x"], ["y"]),
    "Mish": helper.make_node("Mish", ["x"], ["y"]),
    "CastLike": helper.make_node("CastLike", ["x", "x"], ["y"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_imported_graph_holds_the_body_with_the_same_bits(name: str) -> None:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 3])
    graph = helper.make_graph([CALLS[name]], "g", [X], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    imported = import_model(model)
    assert not {n.op_type for n in imported.nodes} & INLINED
    constants = [onnx.numpy_helper.from_array(v, k) for k, v in imported.constants.items()]
    body = helper.make_model(
        helper.make_graph(list(imported.nodes), "body", [X], [y], constants),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32) * 4
    runs = [
        ort.InferenceSession(m.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
        for m in (model, body)
    ]
    assert runs[0].run(None, {"x": x})[0].tobytes() == runs[1].run(None, {"x": x})[0].tobytes()


def test_an_inner_tensor_of_a_models_name_is_refused() -> None:
    """The model's tensor would be read where the body's is meant, or the other way round."""
    shape = [2, 4, 3]
    call = helper.make_node("HardSwish", ["x"], ["y"], name="call")
    plain = import_model(step_model([call], {"x": shape}, {"y": shape}))
    inner = next(name for node in plain.nodes for name in node.output if name not in ("", "y"))
    nodes = [call, helper.make_node("Neg", ["x"], [inner]), helper.make_node("Abs", [inner], ["z"])]
    with pytest.raises(ModelError, match=rf"tensor '{inner}' has the name .* of node 'call' \(HardSwish\)"):
        import_model(step_model(nodes, {"x": shape}, {"y": shape, "z": shape}))
