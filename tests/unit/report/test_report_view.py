"""Names, contents and times that the reports read into a plan."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from support.concats import branches
from support.networks import cnn, mlp
from support.plans import plan_of, random_plan

from planc.enums import Direction
from planc.errors import PlanError
from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel
from planc.report.view import Content, view_of
from planc.schedule.schedule import Schedule


def test_plan_and_graph_name_the_same_things() -> None:
    plan = random_plan(cnn(), 1)
    alone, with_graph = view_of(plan), view_of(plan, cnn().graph)
    assert alone.layers == with_graph.layers
    assert alone.residencies == with_graph.residencies
    assert alone.slots == sum(layer.operators for layer in (alone.layers[run.layer] for run in plan.runs))


def test_another_models_graph_is_refused() -> None:
    with pytest.raises(PlanError, match="not for"):
        view_of(random_plan(cnn(), 0), mlp().graph)


def test_a_plan_without_labels_needs_its_graph() -> None:
    bare = msgspec.structs.replace(random_plan(cnn(), 0), layers=(), inputs={})
    with pytest.raises(PlanError, match="--model"):
        view_of(bare)
    assert view_of(bare, cnn().graph).residencies == view_of(random_plan(cnn(), 0)).residencies


def test_every_slot_belongs_to_its_run() -> None:
    view = view_of(random_plan(cnn(), 3))
    by_slot = [run for run, info in enumerate(view.plan.runs) for _ in range(view.layers[info.layer].operators)]
    assert [view.run_at(slot) for slot in range(view.slots)] == by_slot
    assert view.run_at(view.slots) == len(view.plan.runs) - 1


def test_contents_follow_role_and_phase() -> None:
    graph = cnn().graph
    view = view_of(plan_of(cnn(), Schedule(tuple(range(len(graph.layers))))))
    role = {storage.name: storage.role for storage in graph.storages}
    expected = {Role.STATE: Content.STATE, Role.BATCH: Content.BATCH, Role.CONSTANT: Content.CONSTANT}
    seen = set()
    for stay in view.residencies:
        seen.add(stay.content)
        if role[stay.storage] is not Role.COMPUTED:
            assert stay.content is expected[role[stay.storage]]
            assert stay.maker is None
            continue
        assert stay.maker is not None
        phase = graph.layers[view.plan.runs[stay.maker].layer].phase
        lasts = view.plan.residencies[stay.index].end > view.first_slot[stay.maker + 1]
        saved = Content.SAVED if phase == "forward" else Content.GRADIENT
        assert stay.content is (saved if lasts else Content.TEMPORARY)
    assert seen >= {Content.STATE, Content.BATCH, Content.SAVED, Content.GRADIENT, Content.TEMPORARY}


@pytest.mark.parametrize("network", [cnn, branches])
@pytest.mark.parametrize("seed", range(6))
def test_stays_surround_their_predicted_copies_and_share_no_byte(
    seed: int, network: Callable[[], ImportedModel]
) -> None:
    view = view_of(random_plan(network(), seed))
    times = view.plan.prediction.copies
    for stay in view.residencies:
        moved = (*stay.copied_out_by, *([] if stay.brought_by is None else [stay.brought_by]))
        for copy in moved:
            assert stay.begin_ns <= times[copy][0]
            assert times[copy][1] <= stay.end_ns
        if stay.brought_by is not None:
            assert view.plan.copies[stay.brought_by].direction is Direction.IN
    for a in view.residencies:
        for b in view.residencies[a.index + 1 :]:
            together = a.begin_ns < b.end_ns and b.begin_ns < a.end_ns
            overlap = a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
            assert not (together and overlap), (a, b)


def test_inputs_of_a_concat_by_placement_give_their_bytes_to_its_output() -> None:
    view = view_of(plan_of(branches(), Schedule(tuple(range(len(branches().graph.layers))))))
    stays = {stay.storage: stay for stay in view.residencies}
    for name, output in {"a": "ab", "b": "ab", "ab": "abc", "c": "abc"}.items():
        assert stays[name].taken_over_by == stays[output].index
        assert stays[name].end == stays[output].begin


def test_titles_tell_recomputations_apart() -> None:
    view = view_of(random_plan(cnn(), 2))
    layers = [run.layer for run in view.plan.runs]
    for run, layer in enumerate(layers):
        assert view.is_repeat[run] == (layer in layers[:run])
        assert view.title(run).endswith("recompute") == view.is_repeat[run]


def test_a_view_is_frozen() -> None:
    view = view_of(random_plan(cnn(), 0))
    with pytest.raises(AttributeError):
        view.plan = None  # type: ignore[misc,assignment]
    assert replace(view, layers=view.layers).residencies == view.residencies
