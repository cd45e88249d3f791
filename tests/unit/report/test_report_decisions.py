"""What decisions cost, against brute force over the predicted times; the life of a tensor, against the graph."""

import pytest
from support.networks import cnn
from support.plans import plan_of, random_plan

from planc.enums import Direction
from planc.errors import UsageError
from planc.plan.residency_index import ResidencyIndex
from planc.report.decisions import Kind, decisions_of, hidden_ns, stalls_ns
from planc.report.summary import summarize, summary_json
from planc.report.tensor import life_json, life_of
from planc.report.tensors import tensor_rows
from planc.report.view import Content, view_of
from planc.schedule.schedule import Schedule

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_hidden_time_is_the_overlap_with_compute(seed: int) -> None:
    view = view_of(random_plan(cnn(), seed))
    runs, copies = view.plan.prediction.runs, view.plan.prediction.copies
    overlap = [sum(max(0, min(b, d) - max(a, c)) for a, b in runs) for c, d in copies]
    assert list(hidden_ns(view)) == overlap
    assert any(overlap)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_stall_counts_for_a_copy(seed: int) -> None:
    view = view_of(random_plan(cnn(), seed))
    stalls = stalls_ns(view)
    assert sum(stalls) == view.plan.prediction.stall_ns
    busy = sum(end - start for start, end in view.plan.prediction.runs)
    assert busy + sum(stalls) == view.plan.prediction.step_ns


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_add_up_to_the_overhead(seed: int) -> None:
    """The made-up costs have no contention and no boundary, so stalls and recomputation explain the whole overhead."""
    view = view_of(random_plan(cnn(), seed))
    summary = summarize(view)
    prediction = view.plan.prediction
    assert summary.slowdown_ns == 0
    assert sum(d.cost_ns for d in summary.decisions) == prediction.step_ns - prediction.unconstrained_step_ns
    assert summary.recomputed_layers == len(view.plan.runs) - view.plan.model.layers
    assert summary.copies.count == len(view.plan.copies)
    assert summary.copies.bytes == sum(copy.bytes for copy in view.plan.copies)
    costs = [d.cost_ns for d in summary.decisions]
    assert costs == sorted(costs, reverse=True)


def test_kinds_follow_the_directions() -> None:
    view = view_of(random_plan(cnn(), 4))
    for decision in decisions_of(view):
        if decision.kind is Kind.RECOMPUTE:
            continue
        directions = {
            c.direction for c in view.plan.copies if view.plan.residencies[c.residency].storage == decision.name
        }
        expected = {
            frozenset({Direction.OUT, Direction.IN}): Kind.SWAP,
            frozenset({Direction.IN}): Kind.FETCH,
            frozenset({Direction.OUT}): Kind.STORE,
        }
        assert decision.kind is expected[frozenset(directions)]


def test_a_plan_that_keeps_everything_decides_nothing() -> None:
    view = view_of(plan_of(cnn(), Schedule(tuple(range(len(cnn().graph.layers))))))
    summary = summarize(view)
    assert summary.decisions == ()
    assert (summary.overhead, summary.swapped_bytes, summary.hidden_share) == (0.0, 0, 1.0)
    assert {row.decision for row in tensor_rows(view)} == {"keep"}


def test_tensor_rows_name_every_decision_once() -> None:
    view = view_of(random_plan(cnn(), 2))
    rows = {row.storage: row for row in tensor_rows(view)}
    lasting = {stay.storage for stay in view.residencies if stay.content is not Content.TEMPORARY}
    assert set(rows) == lasting
    for decision in decisions_of(view):
        if decision.kind is not Kind.RECOMPUTE:
            assert decision.kind in rows[decision.name].decision
            assert rows[decision.name].copy_ns == decision.copy_ns
    again = {s.storage for s in view.residencies if s.maker is not None and view.is_repeat[s.maker]} & lasting
    assert {name for name, row in rows.items() if "recompute" in row.decision} == again != set()


def test_summary_json_carries_the_contracts_fields() -> None:
    view = view_of(random_plan(cnn(), 0))
    result = summary_json(view, summarize(view))
    promised = (
        "status budget_bytes slab_bytes scratch_bytes liveness_peak_bytes minimum_budget_bytes predicted_step_ns "
        "unconstrained_step_ns lower_bound_ns gap solve_s layers swapped_bytes recomputed_layers"
    )
    assert set(promised.split()) <= set(result)
    out = [c.bytes for c in view.plan.copies if c.direction is Direction.OUT]
    assert result["swapped_bytes"] == sum(out)


@pytest.mark.parametrize("seed", SEEDS)
def test_readers_are_those_that_the_executor_binds(seed: int) -> None:
    imported = cnn()
    graph, view = imported.graph, view_of(random_plan(imported, seed), imported.graph)
    index = ResidencyIndex(view.plan.residencies)
    for storage in sorted(graph.used_storages):
        name = graph.storages[storage].name
        life = life_of(view, name, graph)
        assert life.readers is not None
        for stay, runs in zip(life.residencies, life.readers, strict=True):
            for run in runs:
                layer = graph.layers[view.plan.runs[run].layer]
                slots = [
                    view.first_slot[run] + op - layer.start
                    for op in range(layer.start, layer.stop)
                    if storage in graph.op_reads[op]
                ]
                assert stay.offset in {index.offset(name, slot) for slot in slots}
        reads = [
            run for run, info in enumerate(view.plan.runs)
            if any(storage in graph.op_reads[op] for op in range(*_ops(graph.layers[info.layer])))
        ]  # fmt: skip
        assert sorted({run for runs in life.readers for run in runs}) == reads


def _ops(layer: object) -> tuple[int, int]:
    return layer.start, layer.stop  # type: ignore[attr-defined]


def test_a_view_of_a_tensor_lives_in_its_storage() -> None:
    imported = cnn()
    view = view_of(random_plan(imported, 0), imported.graph)
    shared = next(s for s in imported.graph.storages if len(s.tensors) > 1)
    names = [imported.graph.tensors[t].name for t in shared.tensors]
    lives = [life_of(view, name, imported.graph) for name in names]
    assert {life.storage for life in lives} == {shared.name}
    assert all(life.residencies == lives[0].residencies and set(life.tensors or ()) == set(names) for life in lives)
    assert life_json(view, lives[-1])["tensor"] == names[-1]


def test_unknown_tensors_are_answered_with_similar_names() -> None:
    view = view_of(random_plan(cnn(), 0))
    with pytest.raises(UsageError, match=r"no tensor 'logit'.*'logits'"):
        life_of(view, "logit", cnn().graph)
    with pytest.raises(UsageError, match="--model"):
        life_of(view, "nothing like it")
