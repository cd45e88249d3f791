"""The in-place whitelist on a card: each entry run with output pointer = input pointer gives the bits of the ordinary run.

Skipped where there is no usable CUDA device. On a machine with little more than ONNX Runtime (no hypothesis):
`pytest --noconftest tests/unit/graph/test_in_place_cuda.py`.
"""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from planc.devices import preferred_device
from planc.graph.operators import IN_PLACE_BINARY, IN_PLACE_UNARY
from planc.runtime.open import open_session

SHAPE = (7, 5, 129, 131)
"""More elements than a grid of threads takes at once, and no multiple of what one thread takes."""


Shapes = dict[str, tuple[int, ...]]


def _session(op: str, shapes: Shapes, attributes: dict[str, object] | None = None) -> ort.InferenceSession:
    if preferred_device().name != "cuda":
        pytest.skip("no usable CUDA device")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, list(shapes), ["y"], **(attributes or {}))], "g", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return open_session(model.SerializeToString(), "cuda", 0)


def _run(session: ort.InferenceSession, over: str | None, output: tuple[int, ...] = SHAPE) -> bytes:
    """The output's bytes, written over the input called `over`, or to a place of its own."""
    rng = np.random.default_rng(0)
    held = {}
    for info in session.get_inputs():
        values = rng.uniform(0.1, 2, info.shape) * rng.choice([1, -1], info.shape)
        held[info.name] = ort.OrtValue.ortvalue_from_numpy(values.astype(np.float32), "cuda", 0)
    binding = session.io_binding()
    for name, value in held.items():
        binding.bind_input(name, "cuda", 0, np.float32, value.shape(), value.data_ptr())
    held["y"] = ort.OrtValue.ortvalue_from_shape_and_type(list(output), np.float32, "cuda", 0)
    binding.bind_output("y", "cuda", 0, np.float32, output, held[over or "y"].data_ptr())
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return bytes(held[over or "y"].numpy().tobytes())


@pytest.mark.parametrize("op", sorted(IN_PLACE_UNARY))
def test_unary(op: str) -> None:
    session = _session(op, {"a": SHAPE})
    assert _run(session, "a") == _run(session, None)


@pytest.mark.parametrize("op", sorted(IN_PLACE_BINARY))
@pytest.mark.parametrize("over", ["a", "b"])
def test_binary(op: str, over: str) -> None:
    session = _session(op, {"a": SHAPE, "b": SHAPE})
    assert _run(session, over) == _run(session, None)


@pytest.mark.parametrize("op", sorted(IN_PLACE_BINARY))
@pytest.mark.parametrize("other", [(1,), SHAPE[-1:], (1, SHAPE[1], 1, 1), (SHAPE[0], 1, *SHAPE[2:])])
@pytest.mark.parametrize("over", ["a", "b"])
def test_binary_with_a_broadcast_operand(op: str, other: tuple[int, ...], over: str) -> None:
    """Kernels for a scalar, a row, a value for each channel, and any other shape, on either side."""
    session = _session(op, {name: SHAPE if name == over else other for name in "ab"})
    assert _run(session, over) == _run(session, None)


def test_this_check_catches_an_operator_that_corrupts() -> None:
    session = _session("Transpose", {"a": SHAPE}, {"perm": [0, 1, 3, 2]})
    turned = (*SHAPE[:2], SHAPE[3], SHAPE[2])
    assert _run(session, "a", turned) != _run(session, None, turned)
