"""Training graphs whose Concats may be made by placement."""

import functools

import numpy as np
from onnx import helper

from planc.importer.build import ImportedModel, import_model
from support.graphs import step_model

ROWS, WIDTH = 8, 64
"""Shape of every input of a Concat: 2,048 bytes."""


@functools.cache
def branches(axis: int = 0) -> ImportedModel:
    """Two Concats, one of the other's output and a third branch, in the forward pass; every input is read before its
    Concat and again after the loss, as a backward pass does."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["a"]),
        helper.make_node("Neg", ["a"], ["na"]),
        helper.make_node("Sigmoid", ["h"], ["b"]),
        helper.make_node("Add", ["na", "b"], ["n"]),
        helper.make_node("Sub", ["n", "h"], ["nb"]),
        helper.make_node("Concat", ["a", "b"], ["ab"], name="first", axis=axis),
        helper.make_node("MatMul", ["nb", "w"], ["c0"]),
        helper.make_node("Relu", ["c0"], ["c"]),
        helper.make_node("Concat", ["ab", "c"], ["abc"], name="second", axis=axis),
        helper.make_node("MatMul", ["abc", "w"], ["y"]),
        helper.make_node("ReduceMean", ["y"], ["loss"], keepdims=0),
        helper.make_node("Mul", ["y", "loss"], ["dy"]),
        helper.make_node("Mul", ["abc", "dy"], ["dabc"]),
        helper.make_node("ReduceSum", ["dabc"], ["s1"], keepdims=1),
        helper.make_node("Mul", ["c", "s1"], ["dc"]),
        helper.make_node("Mul", ["ab", "s1"], ["dab"]),
        helper.make_node("Mul", ["b", "dc"], ["db"]),
        helper.make_node("Mul", ["a", "db"], ["da"]),
        helper.make_node("ReduceMean", ["dab"], ["s2"], keepdims=1),
        helper.make_node("Mul", ["w", "s2"], ["step"]),
        helper.make_node("Sub", ["w", "step"], ["w_next"]),
    ]
    initial = {"w": np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8}
    outputs: dict[str, list[int]] = {"loss": [], "da": [ROWS, WIDTH], "w_next": [WIDTH, WIDTH]}
    inputs = {"x": [ROWS, WIDTH], "w": [WIDTH, WIDTH]}
    return import_model(step_model(nodes, inputs, outputs, initial, {"w": "w_next"}, "loss"))
