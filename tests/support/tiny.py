"""Training graphs so small that every interleaving of their plans can be tried. Tensors are whole blocks of 256 bytes."""

import functools

import numpy as np
from onnx import helper

from planc.importer.import_model import ImportedModel, import_model
from support.graphs import step_model

N = helper.make_node
ROW, SQUARE = [8, 8], [8, 8]


@functools.cache
def chain() -> ImportedModel:
    """A product, element-wise operators forth and back, one parameter."""
    nodes = [
        N("MatMul", ["x", "w"], ["h"]),
        N("Tanh", ["h"], ["a"]),
        N("MatMul", ["a", "w"], ["y"]),
        N("ReduceMean", ["y"], ["loss"], keepdims=0),
        N("Mul", ["y", "a"], ["da"]),
        N("Mul", ["da", "h"], ["dw"]),
        N("Sub", ["w", "dw"], ["w2"]),
    ]
    inputs, outputs = {"x": ROW, "w": SQUARE}, {"loss": [], "w2": SQUARE}
    return import_model(step_model(nodes, inputs, outputs, {"w": np.ones(SQUARE, np.float32)}, {"w": "w2"}, "loss"))


@functools.cache
def two_states() -> ImportedModel:
    """A parameter with momentum, and an output that is no state."""
    nodes = [
        N("MatMul", ["x", "w"], ["h"]),
        N("Relu", ["h"], ["a"]),
        N("ReduceMean", ["a"], ["loss"], keepdims=0),
        N("Mul", ["a", "h"], ["g"]),
        N("Add", ["m", "g"], ["m2"]),
        N("Sub", ["w", "m2"], ["w2"]),
    ]
    inputs, outputs = {"x": ROW, "w": SQUARE, "m": SQUARE}, {"loss": [], "a": ROW, "w2": SQUARE, "m2": SQUARE}
    initial = {"w": np.ones(SQUARE, np.float32), "m": np.zeros(SQUARE, np.float32)}
    return import_model(step_model(nodes, inputs, outputs, initial, {"w": "w2", "m": "m2"}, "loss"))


@functools.cache
def concat() -> ImportedModel:
    """A Concat of two pieces, each read before it and, through it, after it."""
    nodes = [
        N("MatMul", ["x", "w"], ["h"]),
        N("Tanh", ["h"], ["a"]),
        N("Sigmoid", ["h"], ["b"]),
        N("Concat", ["a", "b"], ["ab"], axis=0),
        N("ReduceMean", ["ab"], ["loss"], keepdims=0),
        N("Mul", ["ab", "ab"], ["dab"]),
        N("Split", ["dab"], ["da", "db"], axis=0, num_outputs=2),
        N("Mul", ["da", "b"], ["g"]),
        N("Sub", ["w", "g"], ["w2"]),
    ]
    inputs, outputs = {"x": ROW, "w": SQUARE}, {"loss": [], "w2": SQUARE}
    return import_model(step_model(nodes, inputs, outputs, {"w": np.ones(SQUARE, np.float32)}, {"w": "w2"}, "loss"))


GRAPHS = (chain, two_states, concat)
