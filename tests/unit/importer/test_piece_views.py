"""Split, Slice and Gather as views: the right bytes, only where memory layout and memory allow it."""

import numpy as np
import pytest
from onnx import helper
from support.adversary import judge
from support.graphs import step_model
from support.plans import random_plan
from support.views import ints, stacked

from planc.importer.import_model import ImportedModel, import_model
from planc.importer.piece_views import contiguous
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify


def names(imported: ImportedModel) -> list[str]:
    return [op.op_type for op in imported.graph.ops]


@pytest.mark.parametrize("seed", range(6))
def test_views_compute_the_bits_of_copies(seed: int) -> None:
    imported = stacked()
    assert not {"Split", "Slice", "Gather"} & set(names(imported))
    plan = random_plan(imported, seed, scratch_in_slab=seed % 2 == 0)
    assert verify(imported.graph, plan) == ()
    assert judge(imported.graph, plan, range(3)) is None
    with load(plan, imported) as step:
        assert measure(step, 3, seed, compare=True).bitwise_equal is True


def test_a_view_lies_at_its_bytes_of_the_storage() -> None:
    graph = stacked().graph
    at = {t.name: (graph.storages[t.storage].name, t.offset) for t in graph.tensors}
    assert [at[n] for n in ("w0", "w1", "w2")] == [("w", 0), ("w", 16384), ("w", 16384)]
    assert [at[n] for n in ("a", "b", "one")] == [("h", 0), ("h", 1024), ("h", 256)]


@pytest.mark.parametrize("seed", range(3))
def test_an_output_may_be_a_view(seed: int) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Split", ["r"], ["a", "b"], num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    model = step_model(nodes, {"x": [8, 16]}, {"y": [4, 16], "b": [4, 16], "r": [8, 16]})
    imported = import_model(model)
    assert names(imported) == ["Relu", "Mul"]
    with load(random_plan(imported, seed), imported) as step:
        assert measure(step, 2, seed, compare=True).bitwise_equal is True


def test_a_piece_of_state_that_is_read_after_the_update_is_copied() -> None:
    assert "Split" in names(stacked(late=True))


def test_pieces_off_the_alignment_are_copied() -> None:
    imported = stacked(size=15)
    assert {"Split", "Slice", "Gather"} <= set(names(imported))
    with load(random_plan(imported, 0), imported) as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal is True


@pytest.mark.parametrize("keeps", [True, False])
def test_a_view_that_would_raise_the_peak_is_copied(keeps: bool) -> None:
    """A small row of a large activation, needed when the peak comes: as a view it would keep all of it."""
    nodes = [
        ints("row", 1),
        helper.make_node("Relu", ["x"], ["big"]),
        helper.make_node("Gather", ["big", "row"], ["one"]),
        helper.make_node("Concat", ["x", "x", "x"], ["more"], axis=1),
        helper.make_node("ReduceSum", ["more"], ["sum"], keepdims=1),
        *([helper.make_node("Mul", ["sum", "sum"], ["late"])] if keeps else []),
        helper.make_node("Add", ["one", "late" if keeps else "sum"], ["y"]),
    ]
    imported = import_model(step_model(nodes, {"x": [64, 64]}, {"y": [1, 64]}))
    assert "Gather" in names(imported)
    nodes.insert(3, helper.make_node("Neg", ["one"], ["used"]))
    nodes[-1] = helper.make_node("Add", ["used", "late" if keeps else "sum"], ["y"])
    assert "Gather" not in names(import_model(step_model(nodes, {"x": [64, 64]}, {"y": [1, 64]})))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 4, 5), (1, 1, 6)])
def test_contiguous_blocks_are_those_of_numpy(shape: tuple[int, ...], axis: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    for start in range(shape[axis]):
        for stop in range(start + 1, shape[axis] + 1):
            block = array[tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))]
            starts = [start if a == axis else 0 for a in range(3)]
            found = contiguous(shape, starts, block.shape)
            assert (found is not None) == block.flags.c_contiguous
            assert found is None or found == block.flat[0]
