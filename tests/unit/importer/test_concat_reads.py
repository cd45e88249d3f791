"""Inputs of a Concat that are read inside its output after it: which reads move, which do not, and the same bits."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper
from support.adversary import judge
from support.concats import branches
from support.graphs import step_model
from support.plans import random_plan

from planc.graph.concat import pieces_of
from planc.graph.graph import Graph
from planc.importer.draft import PART_SUFFIX
from planc.importer.import_model import ImportedModel, import_model
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify

node = helper.make_node


def reads(graph: Graph, op_type: str) -> list[list[str]]:
    """Names of the inputs of every operator of that type."""
    return [[graph.tensors[t].name for t in op.inputs] for op in graph.ops if op.op_type == op_type]


def moved(imported: ImportedModel) -> bool:
    return any(PART_SUFFIX in tensor.name for tensor in imported.graph.tensors)


def placeable(imported: ImportedModel) -> list[bool]:
    """For every Concat whether its inputs may be made in its output."""
    graph = imported.graph
    return [pieces_of(graph, i) is not None for i, op in enumerate(graph.ops) if op.op_type == "Concat"]


def check(imported: ImportedModel, seeds: Sequence[int] = range(3)) -> None:
    for seed in seeds:
        plan = random_plan(imported, seed, scratch_in_slab=seed % 2 == 0)
        assert verify(imported.graph, plan) == ()
        assert judge(imported.graph, plan, range(3)) is None
        with load(plan, imported) as step:
            assert measure(step, 2, seed, compare=True).bitwise_equal is True


@pytest.mark.parametrize("axis", [0, -2])
def test_reads_after_a_concat_go_to_its_output_and_to_that_of_the_next_one(axis: int) -> None:
    graph = branches(axis).graph
    assert reads(graph, "Concat") == [["a", "b"], ["ab", "c"]]
    assert reads(graph, "Neg") == [["a"]]
    assert ["na", "b"] in reads(graph, "Add")
    late = {name for op in reads(graph, "Mul") for name in op if PART_SUFFIX in name}
    assert late == {f"{name}{PART_SUFFIX}abc" for name in ("a", "b", "c", "ab")}
    at = {t.name.split(PART_SUFFIX)[0]: t.offset for t in graph.tensors if t.name in late}
    assert at == {"a": 0, "ab": 0, "b": 2048, "c": 4096}
    for index, op in enumerate(graph.ops):
        for storage, _ in pieces_of(graph, index) or ():
            assert graph.last_read[storage] == index, op.name


@pytest.mark.parametrize("axis", [0, -2])
@pytest.mark.parametrize("seed", range(0, 12, 4))
def test_planned_steps_compute_the_bits_of_copies(axis: int, seed: int) -> None:
    check(branches(axis), range(seed, seed + 4))


def joined(
    rows: Sequence[int] = (8, 8),
    width: int = 64,
    axis: int = 0,
    inputs: Sequence[str] = ("t0", "t1"),
    more: Sequence[onnx.NodeProto] = (),
    late: Sequence[str] = ("t0", "t1"),
    outputs: Sequence[str] = (),
) -> ImportedModel:
    """Tensors t0, t1 … of so many rows, a Concat of `inputs`, and the sum of all values of `late` read after it."""
    names = [f"t{i}" for i in range(len(rows))]
    nodes = [node("Tanh" if i % 2 else "Sigmoid", [f"x{i}"], [name]) for i, name in enumerate(names)]
    nodes += [*more, node("Concat", list(inputs), ["s"], axis=axis), node("ReduceSum", ["s"], ["r0"], keepdims=0)]
    for i, name in enumerate(late):
        nodes += [node("Mul", [name, f"r{i}"], [f"m{i}"]), node("ReduceSum", [f"m{i}"], [f"r{i + 1}"], keepdims=0)]
    given = {f"x{i}": [count, width] for i, count in enumerate(rows)}
    kept = {name: [rows[int(name[1:])], width] for name in outputs}
    return import_model(step_model(nodes, given, {f"r{len(late)}": [], **kept}))


def test_inputs_that_are_read_again_die_in_the_concat() -> None:
    imported = joined()
    assert moved(imported)
    assert placeable(imported) == [True]
    check(imported)


def test_a_concat_along_an_inner_axis_is_copied() -> None:
    imported = joined(axis=1)
    assert not moved(imported)
    assert placeable(imported) == [False]
    check(imported)


def test_a_concat_after_dimensions_of_one_is_contiguous() -> None:
    shape = [1, 4, 16, 4]
    nodes = [
        node("Tanh", ["x"], ["a"]), node("Sigmoid", ["x"], ["b"]), node("Concat", ["a", "b"], ["s"], axis=-3),
        node("ReduceSum", ["s"], ["r"], keepdims=0), node("Mul", ["a", "r"], ["m"]), node("Mul", ["b", "m"], ["y"]),
    ]  # fmt: skip
    imported = import_model(step_model(nodes, {"x": shape}, {"y": shape}))
    assert moved(imported)
    assert placeable(imported) == [True]
    check(imported)


def test_pieces_off_the_alignment_are_copied() -> None:
    imported = joined(width=60)
    assert not moved(imported)
    assert placeable(imported) == [False]
    check(imported, [0])


def test_only_the_last_piece_may_end_off_the_alignment() -> None:
    nodes = [
        node("Tanh", ["x"], ["a"]), node("Sigmoid", ["z"], ["b"]), node("Concat", ["a", "b"], ["s"], axis=0),
        node("ReduceSum", ["s"], ["r"], keepdims=0), node("Mul", ["a", "r"], ["m"]), node("Mul", ["b", "r"], ["y"]),
    ]  # fmt: skip
    model = step_model(nodes, {"x": [64], "z": [33]}, {"m": [64], "y": [33]})
    assert placeable(import_model(model)) == [True]
    check(import_model(model))


def test_an_input_given_twice_is_copied() -> None:
    imported = joined(inputs=("t0", "t1", "t0"))
    assert not moved(imported)
    assert placeable(imported) == [False]
    check(imported)


def test_an_input_that_is_a_piece_of_another_tensor_is_copied() -> None:
    more = [node("Split", ["t0"], ["p", "q"], num_outputs=2)]
    imported = joined(rows=(8, 8, 64), inputs=("p", "t1"), more=more, late=("p", "t1", "t0", "t2"))
    assert "Split" not in [op.op_type for op in imported.graph.ops]
    assert not moved(imported)
    assert placeable(imported) == [False]
    check(imported)


def test_an_input_that_is_a_view_of_a_whole_tensor_is_placed() -> None:
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[16, 32])
    more = [shape, node("Reshape", ["t0"], ["v"]), node("Reshape", ["t1"], ["w"])]
    for n in more[1:]:
        n.input.append("shape")
    imported = joined(inputs=("v", "w"), more=more, late=("t0", "v", "w"))
    assert moved(imported)
    assert placeable(imported) == [True]
    check(imported)


def test_what_the_caller_feeds_is_copied() -> None:
    imported = joined(inputs=("t0", "x1"), late=("t0", "x1"))
    assert not moved(imported)
    assert placeable(imported) == [False]
    check(imported)


def test_state_is_copied_and_so_is_its_next_value() -> None:
    nodes = [
        node("Tanh", ["x"], ["a"]), node("Concat", ["a", "w"], ["s"], axis=0),
        node("ReduceSum", ["s"], ["r"], keepdims=0), node("Mul", ["w", "r"], ["w_next"]),
        node("Concat", ["a", "w_next"], ["s2"], axis=0), node("ReduceSum", ["s2"], ["y"], keepdims=0),
        node("Neg", ["a"], ["z"]),
    ]  # fmt: skip
    initial = {"w": np.ones((8, 64), np.float32) / 1024}
    outputs: dict[str, list[int]] = {"y": [], "z": [8, 64], "w_next": [8, 64]}
    imported = import_model(step_model(nodes, {"x": [8, 64], "w": [8, 64]}, outputs, initial, {"w": "w_next"}))
    assert not moved(imported)
    assert placeable(imported) == [False, False]
    check(imported)


def test_an_output_of_the_model_keeps_bytes_of_its_own() -> None:
    imported = joined(outputs=("t0",))
    assert reads(imported.graph, "Mul") == [["t0", "r0"], [f"t1{PART_SUFFIX}s", "r1"]] or not moved(imported)
    assert placeable(imported) == [False]
    check(imported)


def test_an_output_may_be_that_of_the_concat() -> None:
    nodes = [
        node("Tanh", ["x"], ["a"]), node("Sigmoid", ["x"], ["b"]), node("Concat", ["a", "b"], ["s"], axis=0),
        node("Neg", ["a"], ["y"]),
    ]  # fmt: skip
    imported = import_model(step_model(nodes, {"x": [8, 64]}, {"s": [16, 64], "y": [8, 64]}))
    assert reads(imported.graph, "Neg") == [[f"a{PART_SUFFIX}s"]]
    assert placeable(imported) == [True]
    check(imported)


def test_integers_are_copied() -> None:
    nodes = [
        node("Cast", ["x"], ["a"], to=7), node("Cast", ["z"], ["b"], to=7), node("Concat", ["a", "b"], ["s"], axis=0),
        node("Cast", ["s"], ["f"], to=1), node("Cast", ["a"], ["g"], to=1), node("Concat", ["f", "g"], ["y"], axis=0),
    ]  # fmt: skip
    imported = import_model(step_model(nodes, {"x": [64], "z": [64]}, {"y": [192]}))
    assert not moved(imported)
    assert placeable(imported) == [False, True]
    check(imported)


def test_reads_stay_where_the_output_would_be_kept_for_a_small_part_of_it() -> None:
    """The large input and the output die at the Concat's reader; the small input is read much later."""
    late = ("t1",) * 6
    assert not moved(joined(rows=(64, 8), late=late))
    imported = joined(rows=(64, 8), late=("t0", *late))  # both are read again: the output only keeps them
    assert moved(imported)
    check(imported)


def test_reads_stay_where_the_output_would_raise_the_peak() -> None:
    """At the peak only the first input is needed, and the second is read before it and no more."""
    nodes = [
        node("Tanh", ["x"], ["a"]), node("Sigmoid", ["x"], ["b"]), node("Concat", ["a", "b"], ["s"], axis=0),
        node("ReduceSum", ["s"], ["r"], keepdims=0), node("Mul", ["b", "r"], ["b2"]),
        node("ReduceSum", ["b2"], ["r2"], keepdims=0),
        node("MatMul", ["c", "d"], ["big"]), node("ReduceSum", ["big"], ["r3"], keepdims=0),
        node("Mul", ["r2", "r3"], ["r4"]), node("Mul", ["a", "r4"], ["y"]),
    ]  # fmt: skip
    imported = import_model(step_model(nodes, {"x": [8, 64], "c": [64, 1], "d": [1, 64]}, {"y": [8, 64]}))
    assert not moved(imported)
    check(imported)
