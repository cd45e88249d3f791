"""Where a storage lies at a slot: the residency that began last."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.concats import branches
from support.plans import random_plan

from planc.errors import InternalError
from planc.plan.plan import Residency
from planc.plan.residency_index import ResidencyIndex

_BEGINS = st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), st.integers(0, 99), max_size=9)


@given(_BEGINS, st.randoms(use_true_random=False))
def test_it_finds_what_a_look_at_all_residencies_finds(
    begins: dict[tuple[str, int], int], order: random.Random
) -> None:
    residencies = [Residency(storage, offset, 1, begin, begin + 1) for (storage, begin), offset in begins.items()]
    order.shuffle(residencies)
    index = ResidencyIndex(residencies)
    for storage in "ab":
        ours = sorted((begin, offset) for (name, begin), offset in begins.items() if name == storage)
        assert index.first(storage) == (ours[0][1] if ours and ours[0][0] == 0 else None)
        assert index.last(storage) == (ours[-1][1] if ours else None)
        for slot in range(8):
            begun = [offset for begin, offset in ours if begin <= slot]
            if begun:
                assert index.offset(storage, slot) == begun[-1]
            else:
                with pytest.raises(InternalError, match=f"storage '{storage}' has no residency at slot {slot}"):
                    index.offset(storage, slot)


def test_a_concat_is_placed_where_its_inputs_lie_one_behind_the_other_in_its_output() -> None:
    imported, found = branches(), set[bool]()
    graph = imported.graph
    for seed in range(30):
        plan = random_plan(imported, seed)
        index = ResidencyIndex(plan.residencies)
        ops = [op for run in plan.runs for op in range(graph.layers[run.layer].start, graph.layers[run.layer].stop)]
        placed = index.placed(graph, ops, 0)
        for slot, op in enumerate(ops):
            tensors = [graph.tensors[t] for t in (*graph.ops[op].outputs, *graph.ops[op].inputs) if t >= 0]
            if graph.ops[op].op_type != "Concat":
                assert slot not in placed
                continue
            at, *pieces = (index.offset(graph.storages[t.storage].name, slot) for t in tensors)
            sizes = [t.nbytes for t in tensors[1:]]
            lies = pieces == [at + sum(sizes[:i]) for i in range(len(sizes))]
            assert (slot in placed) == lies
            found.add(lies)
        later = index.placed(graph, ops[3:], 3)
        assert later == {slot - 3 for slot in placed if slot >= 3}
    assert found == {True, False}
