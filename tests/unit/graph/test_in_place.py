"""The in-place whitelist: each entry run with output pointer = input pointer gives the bits of the ordinary run."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from planc.graph.inplace import may_write_over
from planc.graph.operators import IN_PLACE_BINARY, IN_PLACE_UNARY
from planc.runtime.ort.sessions import faithful_options

SHAPE = (3, 5, 40, 41)


def _session(op: str, arity: int, attributes: dict[str, object] | None = None) -> ort.InferenceSession:
    names = ["a", "b"][:arity]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in names]
    node = helper.make_node(op, names, ["y"], **(attributes or {}))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])


def _values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        n: rng.uniform(0.1, 2, SHAPE).astype(np.float32) * rng.choice([1, -1], SHAPE).astype(np.float32) for n in "ab"
    }


def _in_place(session: ort.InferenceSession, values: dict[str, np.ndarray], over: str) -> np.ndarray:
    arrays = {name: value.copy() for name, value in values.items()}
    binding = session.io_binding()
    for info in session.get_inputs():
        binding.bind_input(info.name, "cpu", 0, np.float32, SHAPE, arrays[info.name].ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, SHAPE, arrays[over].ctypes.data)
    session._sess.run_with_iobinding(binding._iobinding, ort.RunOptions())
    return arrays[over]


@pytest.mark.parametrize("op", sorted(IN_PLACE_UNARY))
def test_unary(op: str) -> None:
    session, values = _session(op, 1), {"a": _values()["a"]}
    expected = session.run(None, values)[0]
    assert _in_place(session, values, "a").tobytes() == expected.tobytes()


@pytest.mark.parametrize("op", sorted(IN_PLACE_BINARY))
@pytest.mark.parametrize("over", ["a", "b"])
def test_binary(op: str, over: str) -> None:
    session, values = _session(op, 2), _values()
    expected = session.run(None, values)[0]
    assert _in_place(session, values, over).tobytes() == expected.tobytes()


@pytest.mark.parametrize("op", sorted(IN_PLACE_BINARY))
def test_binary_with_a_scalar(op: str) -> None:
    """The other operand is broadcast; it has bytes of its own."""
    values = {"a": _values()["a"]}
    infos = [helper.make_tensor_value_info("a", TensorProto.FLOAT, SHAPE)]
    scalar = helper.make_tensor("b", TensorProto.FLOAT, [1], [3.0])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, ["a", "b"], ["y"])], "g", infos, [output], [scalar])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    expected = session.run(None, values)[0]
    assert _in_place(session, values, "a").tobytes() == expected.tobytes()


def test_this_check_catches_an_operator_that_corrupts() -> None:
    session, values = _session("Transpose", 1, {"perm": [0, 1, 3, 2]}), {"a": _values()["a"]}
    expected = session.run(None, values)[0].reshape(SHAPE)
    arrays = values["a"].copy()
    binding = session.io_binding()
    binding.bind_input("a", "cpu", 0, np.float32, SHAPE, arrays.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, (3, 5, 41, 40), arrays.ctypes.data)
    session._sess.run_with_iobinding(binding._iobinding, ort.RunOptions())
    assert arrays.tobytes() != expected.tobytes()
    assert may_write_over("Transpose", "", [(0, "float32", (4, 4))], ("float32", (4, 4))) == ()


def test_a_broadcast_operand_is_never_overwritten() -> None:
    full, row = ("float32", (4, 8)), ("float32", (1, 8))
    assert may_write_over("Add", "", [(0, *full), (1, *row)], full) == (0,)
    assert may_write_over("Add", "", [(0, *row), (1, *full)], full) == (1,)
    assert may_write_over("Mul", "", [(0, *full), (0, *row)], full) == ()
    assert may_write_over("Mul", "", [(0, *full), (0, *full)], full) == (0,)
    assert may_write_over("Add", "", [(0, "float64", (4, 8)), (1, *full)], full) == (1,)
