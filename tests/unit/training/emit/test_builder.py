"""The emitter of nodes: names, shared constants, and what it leaves out."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from planc.errors import UsageError
from planc.training.emit.builder import MAX_CONCAT_INPUTS, Builder, LayerGroup, Var
from planc.training.emit.forms import CPU, CUDA, ConvSize, table_for

X = Var("x", (2, 3, 4), TensorProto.FLOAT)


def builder() -> Builder:
    return Builder(values={"x": X}, group=LayerGroup("layer", "kind", "backward"))


def evaluated(b: Builder, result: Var, x: np.ndarray) -> np.ndarray:
    infos = [helper.make_tensor_value_info(v.name, v.dtype, list(v.shape)) for v in (X, result)]
    graph = helper.make_graph(b.nodes, "g", infos[:1], infos[1:], list(b.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_views_read_the_original() -> None:
    b = builder()
    again = b.reshape(b.reshape(X, (6, 4)), (24,))
    assert b.nodes[-1].input[0] == "x"
    assert b.reshape(again, X.shape) == X
    assert b.reshape(X, X.shape) == X


def test_transposes_in_one_group_compose() -> None:
    b = builder()
    x = np.arange(24, dtype=np.float32).reshape(X.shape)
    twice = b.transpose(b.transpose(X, (1, 2, 0)), (2, 0, 1))
    assert twice == X
    swapped = b.transpose(b.transpose(X, (1, 0, 2)), (2, 0, 1))
    np.testing.assert_array_equal(evaluated(b, swapped, x), x.transpose(1, 0, 2).transpose(2, 0, 1))
    assert b.nodes[-1].input[0] == "x"


def test_a_transpose_that_moves_only_ones_is_a_view() -> None:
    b = builder()
    b.transpose(b.reshape(X, (6, 1, 4)), (1, 0, 2))
    assert {n.op_type for n in b.nodes} == {"Reshape"}


def test_equal_constants_are_one_initializer_of_the_rank_they_meet() -> None:
    b = builder()
    b.mul(X, 0.5)
    b.add(X, 0.5)
    b.mul(b.reshape(X, (24,)), 0.5)
    assert sorted(tuple(t.dims) for t in b.initializers.values() if t.data_type == TensorProto.FLOAT) == [
        (1,),
        (1, 1, 1),
    ]


def test_forward_constants_are_shared() -> None:
    half = onnx.numpy_helper.from_array(np.full((1, 1, 1), 0.5, np.float32), "half")
    b = Builder(values={"x": X, "half": Var("half", (1, 1, 1), TensorProto.FLOAT)}, fixed={"half": half})
    b.mul(X, 0.5)
    assert b.nodes[-1].input[1] == "half"
    assert not b.initializers


def test_wide_concats_become_trees() -> None:
    b = builder()
    parts = [b.slice(X, {2: (i % 4, i % 4 + 1, 1)}) for i in range(70)]
    joined = b.concat(parts, 2)
    assert joined.shape == (2, 3, 70)
    assert max(len(n.input) for n in b.nodes if n.op_type == "Concat") <= MAX_CONCAT_INPUTS
    x = np.arange(24, dtype=np.float32).reshape(X.shape)
    np.testing.assert_array_equal(evaluated(b, joined, x), np.concatenate([x[..., i % 4, None] for i in range(70)], 2))


def test_names_are_unique_and_say_where_they_belong() -> None:
    b = builder()
    for _ in range(3):
        b.mul(X, X)
    names = [n.name for n in b.nodes]
    assert names == ["layer.backward.Mul", "layer.backward.Mul.2", "layer.backward.Mul.3"]
    assert len({n.output[0] for n in b.nodes}) == 3


def conv(**changes: object) -> ConvSize:
    usual = {
        "batch": 8, "channels_in": 64, "channels_out": 64, "group": 1, "kernel": (3, 3), "output": (28, 28),
        "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1),
    }  # fmt: skip
    return ConvSize(**(usual | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "cpu", "cuda"),
    [
        (conv(), "taps", "gathered"),
        (conv(output=(7, 7)), "taps", "conv"),
        (conv(kernel=(1, 1), pads=(0,) * 4), "taps", "matmul"),
        (conv(group=64), "conv", "conv"),
        (conv(channels_in=3, kernel=(7, 7), strides=(2, 2)), "conv", "gathered"),
        (conv(channels_in=3), "columns", "gathered"),
        (conv(kernel=(16, 16), strides=(16, 16), pads=(0,) * 4), "patches", "patches"),
    ],
)
def test_weight_gradient_forms(size: ConvSize, cpu: str, cuda: str) -> None:
    assert (CPU.conv_weight(size), CUDA.conv_weight(size)) == (cpu, cuda)


def test_an_unknown_device_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="cpu, cuda"):
        table_for("tpu")
