"""Training graphs whose Concats may be made by placement."""

import functools

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from planc.importer.import_model import ImportedModel, import_model
from support.graphs import step_model
from support.views import ints

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


@st.composite
def concat_graphs(draw: st.DrawFn) -> ImportedModel:
    """A random graph over [rows, 64] float tensors: element-wise operators, products of equal shapes, Concats of tensors
    that are no views, Slices. What nothing else reads is summed up last, so that it lives past the loss, which is of some
    tensor of the middle; one of those tensors may be an output too."""
    nodes: list[onnx.NodeProto] = [helper.make_node("Tanh", ["x"], ["t0"])]
    rows, whole, unread = {"t0": draw(st.integers(1, 8))}, ["t0"], {"t0": None}
    first = rows["t0"]

    def new(count: int, view: bool = False) -> str:
        name = f"t{len(rows)}"
        rows[name], unread[name] = count, None
        if not view:
            whole.append(name)
        return name

    for step in range(draw(st.integers(5, 16))):
        kind = draw(st.sampled_from(["Concat", "Concat", "Neg", "Sigmoid", "Mul", "Slice"]))
        if kind == "Concat" and len(whole) > 1:
            sources = draw(st.lists(st.sampled_from(whole), min_size=2, max_size=3, unique=draw(st.booleans())))
            made, options = new(sum(rows[s] for s in sources)), {"axis": draw(st.sampled_from([0, -2]))}
        elif kind == "Mul":
            one = draw(st.sampled_from(list(rows)))
            sources, options = [one, draw(st.sampled_from([n for n in rows if rows[n] == rows[one]]))], {}
            made = new(rows[one])
        elif kind == "Slice":
            one = draw(st.sampled_from(list(rows)))
            end = draw(st.integers(1, rows[one]))
            nodes += [ints(f"i{step}", end - 1), ints(f"j{step}", end), ints(f"k{step}", 0)]
            sources, options, made = [one, f"i{step}", f"j{step}", f"k{step}"], {}, new(1, view=True)
        else:
            sources, options = [draw(st.sampled_from(list(rows)))], {}
            kind, made = "Neg" if kind == "Concat" else kind, new(rows[sources[0]])
        nodes.append(helper.make_node(kind, sources, [made], **options))
        for source in sources:
            unread.pop(source, None)
        if step == 3:
            nodes.append(helper.make_node("ReduceMean", [draw(st.sampled_from(list(rows)))], ["loss"], keepdims=0))
    late = [*unread, *draw(st.lists(st.sampled_from(list(rows)), max_size=4))]
    nodes.append(helper.make_node("Exp", ["loss"], ["y0"]))
    for at, name in enumerate(late):
        nodes += [helper.make_node("Mul", [name, f"y{at}"], [f"m{at}"])]
        nodes += [helper.make_node("ReduceSum", [f"m{at}"], [f"y{at + 1}"], keepdims=0)]
    kept = draw(st.lists(st.sampled_from(list(rows)), max_size=1))
    outputs: dict[str, list[int]] = {"loss": [], f"y{len(late)}": [], **{n: [rows[n], WIDTH] for n in kept}}
    return import_model(step_model(nodes, {"x": [first, WIDTH]}, outputs, loss="loss"))
