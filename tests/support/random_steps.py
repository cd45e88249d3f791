"""Training steps of random networks: layers of any width, branches, sums and Concats, with any small optimizer."""

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.importer.import_model import ImportedModel, import_model
from planc.training import Optimizer, differentiate

_BATCH, _CLASSES = 8, 5
_UNARY = ("Relu", "Tanh", "Sigmoid", "Softplus")
_OPTIMIZERS = ("sgd", "momentum", "adam")


def random_step(seed: int, operators: int = 12) -> ImportedModel:
    """The step of a network of so many random operators, each of any tensors that are there."""
    rng = random.Random(f"step {seed}")
    forward = _forward(rng, operators)
    optimizer = Optimizer(rng.choice(_OPTIMIZERS), learning_rate=0.01)
    return import_model(differentiate(forward, loss="cross-entropy", optimizer=optimizer))


def _forward(rng: random.Random, operators: int) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    width = {"x": rng.choice((16, 48))}

    def matrix(rows: int, columns: int) -> str:
        values = np.random.default_rng(len(weights)).standard_normal((rows, columns)) / 8
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def add(kind: str, inputs: list[str], columns: int, **attributes: int) -> None:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}{len(nodes)}", **attributes))
        width[name] = columns

    def linear(source: str, columns: int) -> None:
        add("MatMul", [source, matrix(width[source], columns)], columns)

    linear("x", rng.choice((16, 32, 64)))
    for _ in range(operators):
        source = rng.choice([name for name in width if name != "x"])
        like = [name for name in width if name not in ("x", source) and width[name] == width[source]]
        kind = rng.choice(("linear", "unary", "unary", "sum", "concat"))
        if kind == "linear":
            linear(source, rng.choice((16, 32, 64)))
        elif kind == "unary":
            add(rng.choice(_UNARY), [source], width[source])
        elif kind == "sum" and like:
            add(rng.choice(("Add", "Mul")), [source, rng.choice(like)], width[source])
        elif kind == "concat" and like:
            other = rng.choice(like)
            add("Concat", [source, other], width[source] + width[other], axis=1)
    read = {name for node in nodes for name in node.input}
    unread = [node.output[0] for node in nodes if node.output[0] not in read]
    if len(unread) > 1:
        add("Concat", unread, sum(width[name] for name in unread), axis=1)
    linear(nodes[-1].output[0], _CLASSES)
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_BATCH, width["x"]])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [_BATCH, _CLASSES])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
