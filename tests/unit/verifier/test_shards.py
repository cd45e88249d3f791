"""The verifier refuses a rank's plan that exchanges otherwise than the ranks agreed, and a state that only one has."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import onnx
import pytest
from support.costs import made_up_costs
from support.networks import forward_cnn

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.enums import ExchangeKind
from planc.errors import VerificationError
from planc.graph.annotations import SHARDS, STATE, read_json, write_model
from planc.graph.graph import Graph, Shards
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import SHARD_FORMAT, Plan
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions
from planc.verifier.verify import verify


def model(rank: int = 0, **options: Any) -> onnx.ModelProto:
    step = StepOptions(ranks=2, bucket_bytes=1000, sharded=True, rank=rank, **options)
    return differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("momentum"), options=step)


def planned(imported: ImportedModel) -> Plan:
    return compile_model(imported, made_up_costs(imported.graph), CompileOptions(time_limit_s=0.3)).plan


@pytest.fixture(scope="module")
def imported() -> ImportedModel:
    return import_model(model())


@pytest.fixture(scope="module")
def plan(imported: ImportedModel) -> Plan:
    made = planned(imported)
    assert verify(imported.graph, made) == ()
    assert {e.kind for e in made.exchanges} == set(ExchangeKind)
    assert (made.rank, made.format) == (0, SHARD_FORMAT)
    return made


def changed(plan: Plan, of: ExchangeKind, **changes: Any) -> Plan:
    """The last exchange of that kind, changed."""
    at = max(i for i, e in enumerate(plan.exchanges) if e.kind is of)
    new = msgspec.structs.replace(plan.exchanges[at], **changes)
    return msgspec.structs.replace(plan, exchanges=(*plan.exchanges[:at], new, *plan.exchanges[at + 1 :]))


def early(plan: Plan) -> Plan:
    """New values are given before they are written."""
    return changed(plan, ExchangeKind.BROADCAST, after=plan.exchanges[-2].after)


MUTANTS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "the plan of another rank": (lambda p: msgspec.structs.replace(p, rank=1), "ranks"),
    "the plan of no rank": (lambda p: msgspec.structs.replace(p, rank=None), "ranks"),
    "a sum for one is for all": (
        lambda p: changed(p, ExchangeKind.REDUCE, kind=ExchangeKind.ALL_REDUCE, roots=()),
        "exchange",
    ),
    "what is given is summed": (lambda p: changed(p, ExchangeKind.BROADCAST, kind=ExchangeKind.REDUCE), "exchange"),
    "another root": (lambda p: changed(p, ExchangeKind.REDUCE, roots=(0, 0, 1)), "exchange"),
    "no root": (lambda p: changed(p, ExchangeKind.BROADCAST, roots=()), "exchange"),
    "values are given too early": (early, "read before written"),
}


@pytest.mark.parametrize("what", MUTANTS)
def test_wrong_exchanges_are_refused(what: str, imported: ImportedModel, plan: Plan) -> None:
    mutate, kind = MUTANTS[what]
    assert kind in {violation.kind for violation in verify(imported.graph, mutate(plan))}


def test_the_ranks_agree_on_exchanges_and_nothing_else(imported: ImportedModel, plan: Plan) -> None:
    """Steps and plans differ; which tensors go which way does not."""
    second = import_model(model(1))
    other = planned(second)
    assert other.model.hash != plan.model.hash
    assert other.exchange_hash == plan.exchange_hash
    assert second.graph.shards is not None
    assert imported.graph.shards is not None
    assert second.graph.shards.step == imported.graph.shards.step
    for kind, changes in ((ExchangeKind.REDUCE, {"roots": (0, 0, 0)}), (ExchangeKind.BROADCAST, {"tensors": ("x",)})):
        assert changed(plan, kind, **changes).exchange_hash != plan.exchange_hash


@pytest.mark.parametrize(
    "changes", [{"clip_value": 1.0}, {"accumulate": 2}, {"ema_decay": 0.5}, {"loss_scale": 2.0}, {"seed": 1}]
)
def test_steps_of_other_options_are_told_apart(changes: dict[str, Any], imported: ImportedModel) -> None:
    other = import_model(model(1, **changes)).graph.shards
    assert other is not None
    assert imported.graph.shards is not None
    assert other.step != imported.graph.shards.step


def root(node: onnx.NodeProto) -> int:
    return next(a.i for a in node.attribute if a.name == "root")


def without(made: onnx.ModelProto, op_type: str) -> onnx.ModelProto:
    """The model in which one exchange of the first rank's does not happen: who read its result reads the operand."""
    node = next(n for n in made.graph.node if n.op_type.startswith(op_type) and root(n) == 0)
    taken = {node.output[0]: node.input[0]}
    for other in made.graph.node:
        other.input[:] = [taken.get(name, name) for name in other.input]
    made.graph.node.remove(node)
    if node.output[0] in {value.name for value in made.graph.output}:
        made.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], name="instead"))
    return made


@pytest.mark.parametrize(
    ("op_type", "message"),
    [("Broadcast", "depends on what this rank alone has"), ("Reduce_", "depends on the rank's own batch")],
)
def test_a_model_that_lets_ranks_drift_apart_is_refused(op_type: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        planned(import_model(without(model(), op_type)))


def with_shards(graph: Graph, **changes: Any) -> Graph:
    assert graph.shards is not None
    return replace(graph, shards=replace(graph.shards, **changes))


def test_state_that_belongs_to_another_rank_is_refused(imported: ImportedModel, plan: Plan) -> None:
    shards = imported.graph.shards
    assert shards is not None
    mine = next(name for name, owner in shards.owners.items() if owner == 0)
    for owners, words in (
        ({**shards.owners, mine: 1}, f"'{mine}': it belongs to rank 1, and rank 0 has it"),
        ({**shards.owners, "other": 0}, "'other': it belongs to rank 0, and rank 0 lacks it"),
        ({**shards.owners, "other": 2}, "it has owners beyond 2 ranks"),
        ({n: o for n, o in shards.owners.items() if n != mine}, "depends on what this rank alone has"),
    ):
        found = [str(violation) for violation in verify(with_shards(imported.graph, owners=owners), plan)]
        assert any(words in text.replace("of rank 0 and has", "it has") for text in found), found


def test_an_exchange_with_a_root_needs_a_rank(plan: Plan) -> None:
    made = model()
    kept = {prop.key: prop.value for prop in made.metadata_props if prop.key != SHARDS}
    del made.metadata_props[:]
    write_model(made, kept)
    with pytest.raises(VerificationError, match="its root is"):
        planned(import_model(made))


@pytest.mark.parametrize("wrong", [{"rank": "0"}, {"rank": 0, "step": "x", "owners": {"w": "0"}}])
def test_metadata_of_another_form_is_refused(wrong: dict[str, Any]) -> None:
    from planc.errors import ModelError

    made = model()
    write_model(made, {SHARDS: json.dumps(wrong)})
    with pytest.raises(ModelError, match="planc.shards"):
        import_model(made)


def test_the_state_is_that_of_the_owner() -> None:
    first, second = (read_json(model(rank), STATE) for rank in range(2))
    owners = import_model(model()).graph.shards
    assert isinstance(owners, Shards)
    assert (
        dict.fromkeys(first.keys() - second.keys(), 0) | dict.fromkeys(second.keys() - first.keys(), 1) == owners.owners
    )
