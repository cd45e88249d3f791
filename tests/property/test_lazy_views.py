"""Views of transposed tensors: right for every shape, and pushed below the transpose exactly where no copy is needed."""

import math
from itertools import pairwise, permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from planc.ort_training.lazy import LazyViews, Permuted, composed, view_through
from planc.training.emit.builder import Builder, Var

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)


@st.composite
def viewed_permutations(draw: st.DrawFn) -> tuple[Permuted, tuple[int, ...]]:
    """A permuted tensor and another shape of as many elements."""
    shape = draw(SHAPES)
    perm = draw(st.permutations(range(len(shape))))
    factors = [p for d in shape for p in ([2, 2] if d == 4 else [2, 3] if d == 6 else [d])]
    ordered = draw(st.permutations([*factors, *([1] * draw(st.integers(0, 2)))]))
    cuts = sorted(draw(st.lists(st.integers(0, len(ordered)), max_size=3)))
    bounds = [0, *cuts, len(ordered)]
    target = tuple(math.prod(ordered[a:b]) for a, b in pairwise(bounds))
    return Permuted(Var("a", tuple(shape), TensorProto.FLOAT), tuple(perm)), target


@given(viewed_permutations())
def test_a_view_is_pushed_below_a_permutation_exactly_where_numpy_needs_no_copy(
    case: tuple[Permuted, tuple[int, ...]],
) -> None:
    permuted, shape = case
    array = np.arange(math.prod(permuted.source.shape)).reshape(permuted.source.shape)
    transposed = np.transpose(array, permuted.perm)
    try:
        np.reshape(transposed, shape, copy=False)
        viewable = True
    except ValueError:
        viewable = False
    through = view_through(permuted, shape)
    assert (through is not None) == viewable
    if through is not None:
        found = np.transpose(array.reshape(through.source_shape), through.perm)
        np.testing.assert_array_equal(found, transposed.reshape(shape))


@given(SHAPES, st.data())
def test_permutations_compose(shape: list[int], data: st.DataObject) -> None:
    first, second = (data.draw(st.permutations(range(len(shape)))) for _ in range(2))
    source = Var("a", tuple(shape), TensorProto.FLOAT)
    array = np.arange(math.prod(shape)).reshape(shape)
    found = composed(composed(source, first), second)
    perm = found.perm if isinstance(found, Permuted) else tuple(range(len(shape)))
    np.testing.assert_array_equal(array.transpose(perm), array.transpose(first).transpose(second))


def test_a_transpose_and_its_inverse_leave_no_node() -> None:
    b = Builder()
    views = LazyViews(b)
    source = Var("a", (2, 3, 4), TensorProto.FLOAT)
    for perm in permutations(range(3)):
        inverse = [perm.index(axis) for axis in range(3)]
        assert views.ordered(views.permuted(views.permuted(source, perm), inverse)) == source
    assert b.nodes == []
