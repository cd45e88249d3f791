"""The text of fused kernels, without a card: subscripts against NumPy's broadcasting; kernels compiled for the host, each
thread in turn, against ONNX Runtime's CPU kernels."""

import ctypes
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

from planc.graph.fused import function
from planc.runtime.cuda.source import BLOCK, WIDTH, Operand, blocks, source, subscript

HOST = """
#include <cmath>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
struct Position { unsigned x; };
static Position blockIdx, threadIdx;
"""


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


SHAPES = [
    ((4,), (4,), (1,)),
    ((3, 5, 7), (5, 1), (3, 1, 7)),
    ((2, 3, 4, 8), (3, 1, 1), (8,)),
    ((1, BLOCK * WIDTH + 4), (1, 1), (BLOCK * WIDTH + 4,)),
    ((BLOCK * WIDTH * 2 - 1,), (1,), (BLOCK * WIDTH * 2 - 1,)),
]
CASES = [(shapes, wide) for shapes in SHAPES for wide in (False, True) if not wide or math.prod(shapes[0]) % WIDTH == 0]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All cases in one library; `run_K` starts every thread of case K, one after the other."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    text = HOST
    for k, (shapes, wide) in enumerate(CASES):
        inputs = [Operand(TensorProto.FLOAT, shape) for shape in shapes]
        outputs = [Operand(TensorProto.FLOAT, shapes[0])] * 2
        text += source(f"k{k}", function("f", _chain(), ["a", "b", "c"], ["out", "kept"], 18), inputs, outputs, wide)
        text += (
            f'extern "C" void run_{k}(float** p) {{ for (blockIdx.x = 0; blockIdx.x < {blocks(outputs[0].elements)}; '
            f"blockIdx.x++) for (threadIdx.x = 0; threadIdx.x < {BLOCK}; threadIdx.x++) "
            f"of_k{k}::k{k}(p[0], p[1], p[2], p[3], p[4]); }}\n"
        )
    folder: Path = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(text)
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
    done = subprocess.run(
        [compiler, *flags, "kernels.cpp", "-o", "kernels.so"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "kernels.so"))


def _aligned(values: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes."""
    room = np.empty(values.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _plain(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, feeds["a"].shape) for name in ("out", "kept")]
    graph = helper.make_graph(_chain(), "plain", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.use_per_session_threads = False  # as planc sets it for the process
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_kernel_gives_the_bits_of_onnx_runtime(kernels: ctypes.CDLL, case: int, in_place: bool) -> None:
    """In place, the first result takes the bytes of `a`."""
    rng = np.random.default_rng(case)
    shapes, _ = CASES[case]
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip("abc", shapes, strict=True)}
    wanted = _plain(feeds)
    given_arrays = [_aligned(value) for value in feeds.values()]
    made = [
        given_arrays[0] if in_place else _aligned(np.full_like(feeds["a"], 7)),
        _aligned(np.full_like(feeds["a"], 7)),
    ]
    pointers = (ctypes.c_void_p * 5)(*(array.ctypes.data for array in (*given_arrays, *made)))
    getattr(kernels, f"run_{case}")(pointers)
    for found, expected in zip(made, wanted, strict=True):
        assert found.tobytes() == expected.tobytes()
