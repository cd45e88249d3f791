"""A Concat whose inputs lie in its output does not run: the verifier refuses every plan in which one of them is lost."""

from dataclasses import replace

import msgspec
import pytest
from support.adversary import judge
from support.concats import branches
from support.plans import plan_of

from planc.importer.draft import PART_SUFFIX
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan, Residency
from planc.plan.residency_index import ResidencyIndex
from planc.schedule.schedule import Schedule
from planc.units import ALIGNMENT
from planc.verifier.verify import verify


def plan_of_both(imported: ImportedModel) -> Plan:
    """A plan without copies and recomputations, both of whose Concats do not run."""
    plan = plan_of(imported, Schedule(tuple(range(len(imported.graph.layers)))))
    ops = [op for r in plan.runs for op in range(*_bounds(imported, r.layer))]
    placed = ResidencyIndex(plan.residencies).placed(imported.graph, ops, 0)
    assert [imported.graph.ops[ops[at]].name for at in sorted(placed)] == ["first", "second"]
    assert verify(imported.graph, plan) == ()
    assert judge(imported.graph, plan, range(3)) is None
    return plan


def _bounds(imported: ImportedModel, layer: int) -> tuple[int, int]:
    return imported.graph.layers[layer].start, imported.graph.layers[layer].stop


def stay(plan: Plan, name: str) -> Residency:
    (found,) = [s for s in plan.residencies if s.storage == name]
    return found


def moved(plan: Plan, **offsets: int) -> Plan:
    """Residencies moved to other offsets, in a slab of twice the size."""
    stays = tuple(
        msgspec.structs.replace(s, offset=offsets[s.storage]) if s.storage in offsets else s for s in plan.residencies
    )
    memory = plan.memory
    more = msgspec.structs.replace(
        memory, slab_bytes=2 * memory.slab_bytes, budget_bytes=memory.budget_bytes + memory.slab_bytes
    )
    return msgspec.structs.replace(plan, residencies=stays, memory=more)


def refused(imported: ImportedModel, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Kinds of violations of a plan that computes something else, and that nothing but the check of places refuses."""
    assert judge(imported.graph, plan, range(3)) is not None
    kinds = {v.kind for v in verify(imported.graph, plan)}
    monkeypatch.setattr("planc.verifier.bytes.leaves_out", lambda *_: True)
    assert verify(imported.graph, plan) == ()
    return kinds


def test_pieces_lie_at_their_bytes_of_the_output() -> None:
    plan = plan_of_both(branches())
    start = stay(plan, "abc").offset
    assert [stay(plan, name).offset - start for name in ("ab", "a", "b", "c")] == [0, 0, 2048, 4096]


def test_pieces_in_each_others_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = branches()
    plan = plan_of_both(imported)
    a, b = stay(plan, "a").offset, stay(plan, "b").offset
    assert refused(imported, moved(plan, a=b, b=a), monkeypatch) == {"shared bytes"}


@pytest.mark.parametrize("name", ["a", "b", "c", "ab"])
def test_a_piece_that_is_made_elsewhere_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = branches()
    plan = plan_of_both(imported)
    away = moved(plan, **{name: plan.memory.slab_bytes})
    assert refused(imported, away, monkeypatch) == {"shared bytes"}


@pytest.mark.parametrize("blocks", [1, 8])
def test_an_output_beside_its_pieces_is_refused(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = branches()
    plan = plan_of_both(imported)
    start, end = stay(plan, "abc").offset, plan.memory.slab_bytes
    inside = {name: end + stay(plan, name).offset - start for name in ("a", "b", "c", "ab")}
    together = moved(plan, abc=end, **inside)
    assert verify(imported.graph, together) == ()
    assert judge(imported.graph, together, range(3)) is None
    apart = moved(plan, abc=end + blocks * ALIGNMENT, **inside)
    assert refused(imported, apart, monkeypatch) == {"shared bytes"}


def test_all_pieces_elsewhere_are_copied() -> None:
    imported = branches()
    plan = plan_of_both(imported)
    end = plan.memory.slab_bytes
    away = moved(plan, a=end, b=end + 4096, c=end + 8192)
    assert [v.kind for v in verify(imported.graph, away)] == ["shared bytes"]  # ab is still where abc is to be
    away = moved(plan, a=end, b=end + 4096, c=end + 8192, ab=end + 12288)
    assert verify(imported.graph, away) == ()
    assert judge(imported.graph, away, range(3)) is None


def test_a_piece_that_is_overwritten_before_the_concat_is_refused() -> None:
    """`nb` is made after `a` and before the Concat."""
    imported = branches()
    plan = plan_of_both(imported)
    lost = moved(plan, nb=stay(plan, "a").offset)
    assert "shared bytes" in {v.kind for v in verify(imported.graph, lost)}
    assert judge(imported.graph, lost, range(3)) is not None


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_piece_that_is_not_made_before_the_concat_is_refused(name: str) -> None:
    imported = branches()
    plan = plan_of_both(imported)
    without = tuple(s for s in plan.residencies if s.storage != name)
    kinds = {v.kind for v in verify(imported.graph, msgspec.structs.replace(plan, residencies=without))}
    assert "absent" in kinds
    late = msgspec.structs.replace(stay(plan, name), begin=stay(plan, name).begin + 1)
    kinds = {v.kind for v in verify(imported.graph, msgspec.structs.replace(plan, residencies=(*without, late)))}
    assert "never written" in kinds


def test_a_piece_that_is_read_after_the_concat_is_not_given_away() -> None:
    """In a graph whose last reader of `a` still reads `a` itself, the piece would have to live on in the output."""
    imported = branches()
    graph, plan = imported.graph, plan_of_both(imported)
    names = {t.name: i for i, t in enumerate(graph.tensors)}
    part, whole = names[f"a{PART_SUFFIX}abc"], names["a"]
    ops = tuple(replace(op, inputs=tuple(whole if t == part else t for t in op.inputs)) for op in graph.ops)
    other = replace(graph, ops=ops)
    assert "absent" in {v.kind for v in verify(other, plan)}
    longer = tuple(
        msgspec.structs.replace(s, end=stay(plan, "abc").end) if s.storage == "a" else s for s in plan.residencies
    )
    assert {v.kind for v in verify(other, msgspec.structs.replace(plan, residencies=longer))} == {"shared bytes"}


def test_a_concat_along_rows_must_not_overlap_its_inputs() -> None:
    """Of [8, 64] and [8, 64] along the second axis no input is a piece of the output."""
    imported = branches()
    graph, plan = imported.graph, plan_of_both(imported)
    flat = {"ab": (8, 128), "abc": (8, 192)}
    tensors = tuple(replace(t, shape=flat.get(t.name, t.shape)) for t in graph.tensors)
    inner = replace(graph, tensors=tensors)
    assert {v.kind for v in verify(inner, plan)} == {"shared bytes"}
    assert judge(inner, plan, range(3)) is not None
