"""What the verifier knows of operators agrees with what the compiler uses, though neither is made from the other."""

import random

import pytest
from hypothesis import given, settings
from support import networks
from support.concats import branches, concat_graphs

from planc.graph.concat import is_placed, pieces_of
from planc.graph.footprint import is_recomputable, write_over_candidates
from planc.graph.fused import DOMAIN
from planc.graph.operators import IN_PLACE_BINARY, IN_PLACE_UNARY
from planc.importer.import_model import ImportedModel
from planc.kernels import DOMAIN as OWN
from planc.kernels import OPERATORS
from planc.verifier import operators
from planc.verifier.operators import is_repeatable, leaves_out, may_overwrite


def agrees(imported: ImportedModel) -> int:
    """Number of (operator, storage) pairs that may be written over each other; both sides must find the same ones."""
    graph, found = imported.graph, 0
    for op in range(len(graph.ops)):
        candidates = {s for s in graph.op_reads[op] if may_overwrite(graph, op, s)}
        assert candidates == set(write_over_candidates(graph, op)), graph.ops[op]
        found += len(candidates)
    for layer in graph.layers:
        assert is_repeatable(graph, layer) == is_recomputable(graph, layer), layer
    return found


@pytest.mark.parametrize("network", [networks.cnn, networks.adam_mlp, branches])
def test_both_find_the_same_operators_that_work_in_place(network) -> None:
    assert agrees(network()) > 3


def test_both_list_the_same_operators() -> None:
    unary = {name for name, count in operators._ELEMENTWISE[""].items() if count == 1}
    binary = {name for name, count in operators._ELEMENTWISE[""].items() if count == 2}
    assert (unary, binary, operators._FUSED) == (set(IN_PLACE_UNARY), set(IN_PLACE_BINARY), DOMAIN)


@settings(deadline=None, max_examples=60)
@given(imported=concat_graphs())
def test_both_find_the_same_concats_that_do_not_run(imported: ImportedModel) -> None:
    graph, rng = imported.graph, random.Random(0)
    agrees(imported)
    for op, info in enumerate(graph.ops):
        pieces = pieces_of(graph, op)
        if info.op_type != "Concat":
            assert not leaves_out(graph, op, lambda storage: 0)
            continue
        places = {} if pieces is None else {s: 1024 + offset for s, offset in pieces}
        places[graph.tensors[info.outputs[0]].storage] = 1024
        assert leaves_out(graph, op, places.get) == is_placed(graph, op, places.get)
        for storage in list(places):
            moved = {**places, storage: places[storage] + rng.choice((-256, 256))}
            assert leaves_out(graph, op, moved.get) == is_placed(graph, op, moved.get)
            gone = {s: at for s, at in places.items() if s != storage}
            assert not leaves_out(graph, op, gone.get)


def test_operators_of_plancs_own_are_overwritten_where_both_say_so() -> None:
    compilers = {name: len(operator.in_place) for name, operator in OPERATORS.items() if operator.in_place}
    assert operators._ELEMENTWISE[OWN] == compilers
    assert all(operator.in_place == tuple(range(len(operator.in_place))) for operator in OPERATORS.values())
