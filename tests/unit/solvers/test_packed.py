"""Packed objects in compiled code: every kind of field is read, arrays are shared, copies are not."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest

from planc.compiled.packed import Packed
from planc_solvers.evaluation.arrays import Bytes8, Ints
from planc_solvers.evaluation.workspace import Floats
from planc_solvers.jit import outer


@dataclass(frozen=True, eq=False)
class Pair(Packed):
    """Two arrays and two numbers."""

    table_2d: Ints
    marks: Bytes8
    whole: int
    part: float


@dataclass(frozen=True, eq=False)
class Nest(Packed):
    """Pairs within, before and after which there are arrays."""

    before: Floats
    pairs: tuple[Pair, Pair]
    single: Pair
    after: Ints


@outer
def total(nest: Nest, index: int) -> float:
    """The sum of everything but the pair that `index` does not choose, whose marks are set."""
    pair = nest.pairs[index]
    found = (
        pair.whole + pair.part + nest.single.whole + nest.single.part + nest.before[0] + nest.after[nest.after.size - 1]
    )
    for i in range(pair.table_2d.shape[0]):
        for j in range(pair.table_2d.shape[1]):
            found += pair.table_2d[i, j] * 10**j
    for p in range(2):
        nest.pairs[p].marks[-1] = p != index
    return float(found)


def pair(seed: int) -> Pair:
    """Some pair, others for other seeds."""
    return Pair(np.arange(6).reshape(2, 3) + seed, np.zeros(3, np.uint8), 1000 * seed, seed / 8)


def nest() -> Nest:
    """Three pairs."""
    return Nest(np.array([0.5, 7.0]), (pair(1), pair(2)), pair(3), np.array([5, 6, 7]))


def expected(own: Nest, index: int) -> float:
    """What `total` should find."""
    chosen, single = own.pairs[index], own.single
    numbers = chosen.whole + chosen.part + single.whole + single.part + own.before[0] + own.after[-1]
    return float(numbers + (chosen.table_2d * np.array([1, 10, 100])).sum())


@pytest.mark.parametrize("index", [0, 1])
def test_compiled_code_reads_fields_of_every_kind_and_writes_into_the_arrays(index: int) -> None:
    own = nest()
    assert total(own, index) == expected(own, index)
    assert [int(p.marks[-1]) for p in own.pairs] == [int(i != index) for i in range(2)]
    own.pairs[index].table_2d[1, 1] += 40
    assert total(own, index) == expected(own, index)


def test_another_object_of_the_class_is_not_compiled_for_again() -> None:
    own = nest()
    total(own, 0)
    larger = replace(own, before=np.ones(50), single=replace(own.single, table_2d=np.zeros((4, 4), np.int64)))
    assert total(larger, 0) == expected(larger, 0) != expected(own, 0)
    assert own.kind == larger.kind
    assert len(getattr(total, "signatures")) == 1  # noqa: B009


def test_copies_have_arrays_of_their_own() -> None:
    own = nest()
    total(own, 1)
    twin = copy.deepcopy(own)
    twin.pairs[1].table_2d[:] = 0
    assert total(twin, 1) == expected(twin, 1) != expected(own, 1)
    assert total(own, 1) == expected(own, 1)


def test_arrays_must_be_contiguous() -> None:
    with pytest.raises(TypeError, match="contiguous"):
        total(replace(nest(), after=np.arange(8)[::2]), 0)
