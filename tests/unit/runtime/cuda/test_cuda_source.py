"""The text of fused kernels, without a card: subscripts against NumPy's broadcasting; kernels compiled for the host, each
thread in turn, against ONNX Runtime's CPU kernels."""

import ctypes
import math
import re
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import FunctionProto, NodeProto, TensorProto, helper
from support.host_passes import compiled_for_host

from planc.graph.fused import function
from planc.importer.fused_body import Body
from planc.runtime.cuda.source import BLOCK, Operand, subscript, width


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=5),
    st.integers(0, 2),
)
def test_subscripts_are_numpys_broadcasting(axes: list[tuple[int, bool]], left_out: int) -> None:
    full = tuple(size for size, _ in axes)
    shape = tuple(size if kept else 1 for size, kept in axes)
    while left_out and len(shape) > 1 and shape[0] == 1:
        shape, left_out = shape[1:], left_out - 1
    text = re.sub(r"(\d)u", r"\1", subscript(shape, full)).replace("/", "//")
    found = eval(text, {"i": np.arange(math.prod(full))})
    wanted = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), full).ravel()
    assert np.array_equal(np.broadcast_to(found, wanted.shape), wanted)


def _chain() -> list[NodeProto]:
    """out = where(a * b > c, sqrt|a - c|, a / (b + c)); kept = relu(a * b) as a second result."""
    node = helper.make_node
    return [
        node("Mul", ["a", "b"], ["ab"]),
        node("Greater", ["ab", "c"], ["more"]),
        node("Sub", ["a", "c"], ["less"]),
        node("Abs", ["less"], ["size"]),
        node("Sqrt", ["size"], ["root"]),
        node("Add", ["b", "c"], ["sum"]),
        node("Div", ["a", "sum"], ["ratio"]),
        node("Where", ["more", "root", "ratio"], ["out"]),
        node("Relu", ["ab"], ["kept"]),
    ]


def _function(types: tuple[int, int, int]) -> FunctionProto:
    """What the importer makes of the chain where `a`, `b`, `c` have these types; `out` has that of `a`, `kept` of `b`."""
    names = [numpy_name(t) for t in types]
    body, known = Body(), {"a": 0, "b": 1, "c": 2}
    for tensor, name in enumerate("abc"):
        body.read(tensor, name, names[tensor])
    for node in _chain():
        known[node.output[0]] = made = len(known)
        dtype = "bool" if node.op_type == "Greater" else "float32"
        body.compute(node.op_type, (), [known[i] for i in node.input], made, dtype)
    ends = body.written([known["out"], known["kept"]], names[:2])
    return function("f", body.nodes, ["a", "b", "c"], ends, 18)


def numpy_name(element_type: int) -> str:
    return helper.tensor_dtype_to_np_dtype(element_type).name


FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
TYPES = [(FLOAT, FLOAT, FLOAT), (BRAIN, BRAIN, BRAIN), (HALF, HALF, HALF), (BRAIN, FLOAT, HALF), (FLOAT, BRAIN, FLOAT)]
MOST = BLOCK * 8
SHAPES = [
    ((4,), (4,), (1,)),
    ((3, 5, 7), (5, 1), (3, 1, 7)),
    ((2, 3, 4, 8), (3, 1, 1), (8,)),
    ((4, 6, 16), (6, 16), (4, 1, 1)),
    ((3, 16, 2), (16, 1), (3, 16, 2)),
    ((1, MOST + 8), (1, 1), (MOST + 8,)),
    ((MOST * 2 - 1,), (1,), (MOST * 2 - 1,)),
]


def _operands(shapes: tuple[tuple[int, ...], ...], types: tuple[int, int, int]) -> tuple[list[Operand], list[Operand]]:
    inputs = [Operand(t, shape) for t, shape in zip(types, shapes, strict=True)]
    return inputs, [Operand(t, shapes[0]) for t in types[:2]]


def _fits(shapes: tuple[tuple[int, ...], ...], types: tuple[int, int, int]) -> bool:
    inputs, outputs = _operands(shapes, types)
    return math.prod(shapes[0]) % width((*inputs, *outputs)) == 0


CASES = [
    (shapes, types, wide)
    for shapes, types in product(SHAPES, TYPES)
    for wide in (False, True)
    if not wide or _fits(shapes, types)
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All cases in one library; `run_K` starts every thread of case K, one after the other."""
    passes = {
        str(k): (_function(types), *_operands(shapes, types), wide) for k, (shapes, types, wide) in enumerate(CASES)
    }
    return compiled_for_host(passes, tmp_path_factory.mktemp("kernels"))


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes."""
    room = np.empty(values.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _plain(feeds: dict[str, np.ndarray], types: tuple[int, int, int]) -> list[np.ndarray]:
    """The chain in float32 over widened inputs, by ONNX Runtime; results rounded by NumPy."""
    wide = {name: value.astype(np.float32) for name, value in feeds.items()}
    infos = [helper.make_tensor_value_info(name, FLOAT, value.shape) for name, value in wide.items()]
    results = [helper.make_tensor_value_info(name, FLOAT, wide["a"].shape) for name in ("out", "kept")]
    graph = helper.make_graph(_chain(), "plain", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.use_per_session_threads = False  # as planc sets it for the process
    made = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, wide)
    with np.errstate(over="ignore"):
        return [value.astype(helper.tensor_dtype_to_np_dtype(t)) for value, t in zip(made, types, strict=False)]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_kernel_gives_the_bits_of_onnx_runtime(kernels: ctypes.CDLL, case: int, in_place: bool) -> None:
    """In place, the first result takes the bytes of `a`. Halves are computed in float32 and rounded once."""
    rng = np.random.default_rng(case)
    shapes, types, _ = CASES[case]
    dtypes = [helper.tensor_dtype_to_np_dtype(t) for t in types]
    feeds = {
        name: (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(dtype)
        for name, shape, dtype in zip("abc", shapes, dtypes, strict=True)
    }
    wanted = _plain(feeds, types)
    given_arrays = [_aligned(value) for value in feeds.values()]
    blank = [_aligned(np.full(shapes[0], 7, dtype)) for dtype in dtypes[:2]]
    made = [given_arrays[0] if in_place else blank[0], blank[1]]
    pointers = (ctypes.c_void_p * 5)(*(array.ctypes.data for array in (*given_arrays, *made)))
    getattr(kernels, f"run_{case}")(pointers)
    for found, expected in zip(made, wanted, strict=True):
        numbers = ~np.isnan(expected.astype(np.float32))
        assert np.array_equal(numbers, ~np.isnan(found.astype(np.float32)))
        assert found[numbers].tobytes() == expected[numbers].tobytes()
