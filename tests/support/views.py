"""Training graphs whose Split, Slice and Gather are views at a byte offset."""

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from planc.importer.import_model import ImportedModel, import_model
from support.graphs import step_model


def ints(name: str, *values: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))


def stacked(size: int = 64, late: bool = False) -> ImportedModel:
    """A stacked weight and an activation, both split along axis 0; the weight is updated from what was computed."""
    nodes = [
        ints("from", -size), ints("to", 1 << 40), ints("axis", 0), ints("row", 1),
        helper.make_node("Split", ["w"], ["w0", "w1"], num_outputs=2),
        helper.make_node("Slice", ["w", "from", "to", "axis"], ["w2"]),
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w0"], ["h"]),
        helper.make_node("Split", ["h"], ["a", "b"], num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["ab"]),
        helper.make_node("MatMul", ["ab", "w1"], ["y"]),
        helper.make_node("Gather", ["h", "row"], ["one"]),
        helper.make_node("Add", ["y", "one"], ["z"]),
        helper.make_node("MatMul", ["z", "w2"], ["out"]),
        helper.make_node("ReduceMean", ["out"], ["m"]),
        helper.make_node("Mul", ["w", "m"], ["step"]),
        helper.make_node("Sub", ["w", "step"], ["w_next"]),
        *([helper.make_node("Concat", ["w1", "w1"], ["twice"], axis=0)] if late else []),
        *([helper.make_node("Add", ["twice", "w_next"], ["seen"])] if late else []),
    ]  # fmt: skip
    initial = {"w": np.random.default_rng(0).standard_normal((2 * size, size)).astype(np.float32) / 4}
    outputs: dict[str, list[int]] = {
        **({"seen": [2 * size, size]} if late else {}),
        "out": [4, size],
        "w_next": [2 * size, size],
    }
    inputs = {"x": [8, size], "w": [2 * size, size]}
    return import_model(step_model(nodes, inputs, outputs, initial, {"w": "w_next"}))


WIDTH = 64
"""Elements of a row of the random graphs: 256 bytes, so that every row is aligned."""


@st.composite
def view_graphs(draw: st.DrawFn) -> ImportedModel:
    """A random graph over [rows, 64] float tensors: Split, Slice, Gather of one row, Reshape, Concat and element-wise
    operators, each of any earlier tensors. Every tensor that nothing reads is an output of the step."""
    nodes: list[onnx.NodeProto] = [helper.make_node("Tanh", ["x"], ["t0"])]
    rows, unread = {"x": 8, "t0": 8}, {"t0": None}

    def new(count: int) -> str:
        name = f"t{len(rows)}"
        rows[name] = count
        unread[name] = None
        return name

    for step in range(draw(st.integers(4, 14))):
        source = draw(st.sampled_from([name for name in rows if name != "x"]))
        size = rows[source]
        kind = draw(st.sampled_from(["Split", "Slice", "Gather", "Reshape", "Concat", "Relu", "Mul"]))
        unread.pop(source, None)
        if kind == "Split" and size > 1:
            first = draw(st.integers(1, size - 1))
            made = [new(first), new(size - first)]
            nodes += [ints(f"i{step}", first, size - first), helper.make_node("Split", [source, f"i{step}"], made)]
        elif kind == "Slice":
            begin = draw(st.integers(0, size - 1))
            end = draw(st.integers(begin + 1, size))
            nodes += [ints(f"i{step}", begin), ints(f"j{step}", end), ints(f"k{step}", 0)]
            nodes.append(helper.make_node("Slice", [source, *(f"{c}{step}" for c in "ijk")], [new(end - begin)]))
        elif kind == "Gather":
            nodes.append(ints(f"i{step}", draw(st.integers(-size, size - 1))))
            nodes.append(helper.make_node("Gather", [source, f"i{step}"], [new(1)]))
        elif kind == "Reshape":
            nodes += [ints(f"i{step}", 2 * size, -1), ints(f"j{step}", size, WIDTH)]
            nodes.append(helper.make_node("Reshape", [source, f"i{step}"], [f"flat{step}"]))
            nodes.append(helper.make_node("Reshape", [f"flat{step}", f"j{step}"], [new(size)]))
        elif kind == "Concat":
            others = draw(st.lists(st.sampled_from([name for name in rows if name != "x"]), min_size=1, max_size=2))
            for part in others:
                unread.pop(part, None)
            made = new(size + sum(rows[part] for part in others))
            nodes.append(helper.make_node("Concat", [source, *others], [made], axis=draw(st.sampled_from([0, -2]))))
        elif kind == "Mul":
            factor = draw(st.sampled_from([name for name, count in rows.items() if count == size]))
            unread.pop(factor, None)
            nodes.append(helper.make_node("Mul", [source, factor], [new(size)]))
        else:
            nodes.append(helper.make_node("Relu", [source], [new(size)]))
    outputs = {name: [rows[name], WIDTH] for name in unread}
    return import_model(step_model(nodes, {"x": [8, WIDTH]}, outputs))
