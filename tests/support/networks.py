"""Small training graphs that the tests plan and run."""

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.importer.import_model import ImportedModel, import_model
from planc.training import differentiate
from planc.training.optimizers import Optimizer


def _parameter(rng: np.random.Generator, name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array((rng.standard_normal(shape) * 0.2).astype(np.float32), name)


def forward_cnn(batch: int = 4, channels: int = 8, image: int = 12) -> onnx.ModelProto:
    """conv, batch-norm, relu, conv, relu with a residual add, max-pool, linear: 10 classes."""
    rng = np.random.default_rng(0)
    c = channels
    side = image // 2
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "rm", "rv"], ["n1", "rm2", "rv2"], training_mode=1),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Add", ["r1", "r2"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    parameters = [
        _parameter(rng, "w1", c, 3, 3, 3),
        _parameter(rng, "w2", c, c, 3, 3),
        _parameter(rng, "w3", 10, c * side * side),
        _parameter(rng, "b3", 10),
        *(numpy_helper.from_array(np.full(c, v, np.float32), n) for n, v in {"g": 1, "b": 0, "rm": 0, "rv": 1}.items()),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, image, image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def forward_mlp(batch: int = 8, width: int = 16, depth: int = 3) -> onnx.ModelProto:
    """`depth` linear layers with relu between them, then 10 classes."""
    rng = np.random.default_rng(1)
    nodes, parameters, at = [], [], "x"
    for i in range(depth):
        parameters += [_parameter(rng, f"w{i}", width, width), _parameter(rng, f"b{i}", width)]
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"h{i}"], name=f"fc{i}"))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"], name=f"relu{i}"))
        at = f"r{i}"
    parameters.append(_parameter(rng, "head", width, 10))
    nodes.append(helper.make_node("MatMul", [at, "head"], ["logits"], name="head_matmul"))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 10])],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@functools.cache
def cnn() -> ImportedModel:
    """The small convolutional network with momentum."""
    return import_model(differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("momentum")))


@functools.cache
def mlp() -> ImportedModel:
    """The small perceptron with plain SGD."""
    return import_model(differentiate(forward_mlp(), loss="cross-entropy", optimizer=Optimizer("sgd")))


@functools.cache
def adam_mlp() -> ImportedModel:
    """The small perceptron with Adam, whose step count is one more state."""
    return import_model(differentiate(forward_mlp(depth=2), loss="cross-entropy", optimizer=Optimizer("adam")))
