"""What segments execute: their operators in order, random ones apart."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from planc.kernels import DOMAIN
from planc.kernels.exchange import ALL_REDUCE
from planc.plan.executed import executed
from planc.plan.plan import Run


class _Placed:
    """Residencies by which every operator is placed whose slot is among `slots`."""

    def __init__(self, slots: set[int]) -> None:
        self.slots = slots

    def placed(self, graph: Any, ops: tuple[int, ...], slot: int) -> frozenset[int]:
        return frozenset(at for at in range(len(ops)) if slot + at in self.slots)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Any, list[Run], list[tuple[int, int]], set[int]]:
    """A graph of what matters here, runs of its layers, segments that tile them, and slots of operators in their places."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    kinds = draw(st.lists(st.sampled_from(["plain", "random", "exchange"]), min_size=sum(sizes), max_size=sum(sizes)))
    ops = [
        SimpleNamespace(
            random=kind == "random",
            op_type=ALL_REDUCE.name if kind == "exchange" else "Add",
            domain=DOMAIN if kind == "exchange" else "",
        )
        for kind in kinds
    ]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    layers = [SimpleNamespace(start=stop - size, stop=stop) for size, stop in zip(sizes, ends, strict=True)]
    order = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=6))
    cuts = draw(st.sets(st.integers(1, max(1, len(order) - 1))))
    bounds = sorted({0, len(order), *(cut for cut in cuts if cut < len(order))})
    graph = SimpleNamespace(ops=ops, layers=layers)
    return graph, [Run(layer) for layer in order], list(pairwise(bounds)), draw(st.sets(st.integers(0, 20)))


@given(_cases())
def test_parts_are_the_operators_in_order_and_a_random_one_is_alone(
    case: tuple[Any, list[Run], list[tuple[int, int]], set[int]],
) -> None:
    graph, runs, segments, placed = case
    parts = list(executed(graph, runs, segments, _Placed(placed)))  # type: ignore[arg-type]
    slot = 0
    for index, (first, end) in enumerate(segments):
        ours = [part for part in parts if part.segment == index]
        wanted = [
            op for run in runs[first:end] for op in range(graph.layers[run.layer].start, graph.layers[run.layer].stop)
        ]
        assert [op for part in ours for op in part.ops] == wanted
        for part in ours:
            assert (part.first, part.end, part.slot) == (first, end, slot)
            assert len(part.ops) == 1 or not any(graph.ops[op].random for op in part.ops)
            nothing = {at for at, op in enumerate(part.ops) if slot + at in placed or graph.ops[op].domain}
            assert part.placed == nothing
            assert part.empty == (nothing == set(range(len(part.ops))))
            slot += len(part.ops)
        for a, b in pairwise(ours):  # only randomness parts a segment
            assert any(graph.ops[part.ops[0]].random for part in (a, b))
    assert {part.segment for part in parts} == set(range(len(segments)))
