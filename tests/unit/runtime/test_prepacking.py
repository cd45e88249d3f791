"""A constant operand has the same bits whether a session holds it or is given it: what a plan's segments rely on."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from planc.runtime.ort import sessions

SHAPES: dict[str, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    "Gemm": ([(16, 512), (512, 64)], {}),
    "Gemm transposed": ([(16, 512), (64, 512)], {"transB": 1}),
    "MatMul": ([(16, 512), (512, 64)], {}),
    "MatMul batched": ([(3, 16, 512), (512, 64)], {}),
    "Conv": ([(2, 64, 14, 14), (64, 64, 3, 3)], {"pads": [1, 1, 1, 1]}),
    "ConvTranspose": ([(2, 64, 7, 7), (64, 32, 3, 3)], {"strides": [2, 2]}),
    "GRU": ([(5, 2, 64), (1, 192, 64), (1, 192, 64)], {"hidden_size": 64}),
    "LSTM": ([(5, 2, 64), (1, 256, 64), (1, 256, 64)], {"hidden_size": 64}),
    "RNN": ([(5, 2, 64), (1, 64, 64), (1, 64, 64)], {"hidden_size": 64}),
}


def _outputs(name: str, fixed: bool, options: ort.SessionOptions) -> np.ndarray[Any, Any]:
    shapes, attributes = SHAPES[name]
    random = np.random.default_rng(1)
    values = {f"x{i}": random.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    given = dict(list(values.items())[:1]) if fixed else values
    constants = {k: v for k, v in values.items() if k not in given}
    node = helper.make_node(name.partition(" ")[0], list(values), ["y"], **attributes)
    graph = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in given.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, given)[0])


@pytest.mark.parametrize("name", SHAPES)
def test_a_constant_operand_has_the_bits_of_an_input(name: str) -> None:
    fixed, given = (_outputs(name, constant, sessions.faithful_options()) for constant in (True, False))
    assert fixed.tobytes() == given.tobytes()


def test_packing_would_change_bits() -> None:
    """The reason for the option: otherwise the tests above could not fail."""

    def packing() -> ort.SessionOptions:
        options = sessions.faithful_options()
        options.add_session_config_entry("session.disable_prepacking", "0")
        return options

    differ = [
        name
        for name in SHAPES
        if _outputs(name, True, packing()).tobytes() != _outputs(name, False, packing()).tobytes()
    ]
    assert "Gemm" in differ
