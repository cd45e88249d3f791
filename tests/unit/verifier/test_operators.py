"""What the verifier knows of operators agrees with what the compiler uses, though neither is made from the other."""

import contextlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import networks
from support.concats import branches, concat_graphs
from support.zoo_networks import small_forward

from planc.graph.concat import is_placed, pieces_of
from planc.graph.footprint import is_recomputable, write_over_candidates
from planc.graph.fused import DOMAIN
from planc.graph.graph import Tensor
from planc.graph.grouped import PREFIX
from planc.graph.operators import IN_PLACE_BINARY, IN_PLACE_UNARY
from planc.importer.import_model import ImportedModel, import_model
from planc.kernels import DOMAIN as OWN
from planc.kernels import OPERATORS
from planc.training import Optimizer, differentiate
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
    assert operators._GROUP == PREFIX


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
    assert {n: operator.in_place for n, operator in OPERATORS.items() if operator.in_place} == operators._OWN_INPUTS


@pytest.mark.parametrize("name", ["gpt2", "convnext_tiny"])
def test_both_agree_on_steps_in_the_forms_for_a_card(name: str) -> None:
    forward = small_forward(name)
    step = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("adamw"), device="cuda")
    imported = import_model(step)
    assert agrees(imported) > 3
    assert any(op.domain == OWN and op.op_type.startswith("LayerNormGradient") for op in imported.graph.ops)


def _tensor(shape: tuple[int, ...]) -> Tensor:
    return Tensor("t", "float32", shape, 4 * math.prod(shape), 0)


_SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=200)
@given(shape=_SHAPES, sizes=st.lists(st.integers(1, 3), min_size=2, max_size=3), data=st.data())
def test_parts_are_in_rows_exactly_where_their_bytes_follow_one_another(
    shape: tuple[int, ...], sizes: list[int], data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    numbers = iter(range(10**6))
    parts = []
    for size in sizes:
        extent = (*shape[:axis], size, *shape[axis + 1 :])
        parts.append(np.array([next(numbers) for _ in range(math.prod(extent))]).reshape(extent))
    whole = np.concatenate(parts, axis)
    follow = whole.tobytes() == b"".join(part.tobytes() for part in parts)
    assert operators._in_rows(_tensor(whole.shape), [_tensor(part.shape) for part in parts]) == follow


@settings(deadline=None, max_examples=200)
@given(whole=_SHAPES, parts=st.lists(_SHAPES, min_size=1, max_size=3))
def test_shapes_that_no_axis_joins_are_never_in_rows(whole: tuple[int, ...], parts: list[tuple[int, ...]]) -> None:
    joins = False
    for axis in range(len(whole)):
        with contextlib.suppress(ValueError, np.exceptions.AxisError):
            joins = joins or np.concatenate([np.zeros(part) for part in parts], axis).shape == whole
    assert joins or not operators._in_rows(_tensor(whole), [_tensor(part) for part in parts])


def test_a_concat_of_another_domain_or_with_an_operand_left_out_is_none() -> None:
    graph = branches().graph
    at = next(k for k, op in enumerate(graph.ops) if op.op_type == "Concat" and pieces_of(graph, k))
    pieces = dict(pieces_of(graph, at) or ())
    places = pieces | {graph.tensors[graph.ops[at].outputs[0]].storage: 0}
    assert leaves_out(graph, at, places.get)
    for changed in ({"domain": "x"}, {"inputs": (*graph.ops[at].inputs, -1)}, {"outputs": (-1,)}, {"op_type": "Sum"}):
        op = replace(graph.ops[at], **changed)
        other = replace(graph, ops=(*graph.ops[:at], op, *graph.ops[at + 1 :]))
        assert not leaves_out(other, at, places.get), changed
    same = replace(graph, ops=(*graph.ops[:at], replace(graph.ops[at], domain="ai.onnx"), *graph.ops[at + 1 :]))
    assert leaves_out(same, at, places.get)
