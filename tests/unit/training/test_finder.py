"""What searches for written-out operators know of a graph, and where they put what they found."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import annotate_node, node_annotation
from planc.training.emit.builder import Var
from planc.training.prepare.finder import Finder


def _finder(wanted: tuple[str, ...] = ()) -> Finder:
    """a = x w, b = -a, y = b + c, with a second reader of b where it is `wanted`; w is trained, c is not."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], "times"),
        helper.make_node("Neg", ["a"], ["b"], "turn"),
        helper.make_node("Add", ["b", "c"], ["y"], "plus"),
        helper.make_node("Mul", ["y", "y"], ["z"], "square"),
    ]
    for node in nodes:
        annotate_node(node, f"layer of {node.name}", "arithmetic", "forward")
    initial = [numpy_helper.from_array(np.array([v], np.float32), name) for name, v in (("w", 2), ("c", 3))]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])], initial,
    )  # fmt: skip
    values = {name: Var(name, (1,), TensorProto.FLOAT) for name in "xwabcyz"}
    return Finder(graph, values, ["w"], wanted)


def test_a_tensor_that_is_wanted_or_read_twice_is_not_alone() -> None:
    finder = _finder()
    assert [name for name in "abyz" if finder.alone(name)] == ["a", "b"]
    assert finder.made_for("b", "Exp", "Neg") is finder.nodes[1] is finder.sole_reader("a")
    assert finder.sole_reader("a", "Exp") is None
    assert finder.made_for("y", "Add") is None
    assert finder.made_by("y", "Add") is finder.nodes[2]
    assert _finder(wanted=("b",)).made_for("b", "Neg") is None


def test_what_is_trained_is_no_constant() -> None:
    finder = _finder()
    assert finder.number("c") == 3
    assert finder.ints(finder.nodes[2], 1) == [3]
    assert finder.number("w") is None
    assert not finder.is_constant("w")
    assert finder.ints(finder.nodes[2], 2) is None


def test_one_node_takes_the_place_and_the_layer_of_the_last() -> None:
    finder = _finder()
    _, turn, plus, _ = finder.nodes
    finder.replace([plus, turn], "Sub", ["c", "a"], "y")
    finder.finish()
    found: list[onnx.NodeProto] = list(finder.graph.node)
    assert [node.op_type for node in found] == ["Mul", "Sub", "Mul"]
    assert (found[1].name, list(found[1].input)) == ("plus", ["c", "a"])
    assert node_annotation(found[1]) == ("layer of plus", "arithmetic", "forward")
