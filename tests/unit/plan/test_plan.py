"""What a plan says of itself: forms, engines, the order of exchanges."""

from typing import Any

import msgspec
import pytest
from support.networks import mlp
from support.plans import random_plan

from planc.enums import ExchangeKind
from planc.plan.plan import EnginePin, Exchange, Plan, Run


@pytest.fixture(scope="module")
def plan() -> Plan:
    return msgspec.structs.replace(random_plan(mlp(), 1), ranks=2, exchanges=(_exchange(), _exchange(bytes=8)))


def _exchange(**changed: Any) -> Exchange:
    told: dict[str, Any] = {"run": 3, "after": 2, "bytes": 4, "tensors": ("a",), "kind": ExchangeKind.REDUCE}
    return Exchange(**{**told, "roots": (1,), **changed})


def _with(plan: Plan, **changed: Any) -> Plan:
    return msgspec.structs.replace(plan, **changed)


def test_a_layer_has_the_form_of_its_first_execution(plan: Plan) -> None:
    runs = (Run(0, (), "lean"), Run(1, (), ""), Run(0, (), "fast"), Run(2, (), "fast"), Run(1, (), "fast"))
    assert _with(plan, runs=runs).layer_forms == {0: "lean", 1: "", 2: "fast"}


def test_engines_are_told_with_their_workspace(plan: Plan) -> None:
    engines = {"conv": (EnginePin("fast", 4096), EnginePin("lean", 0)), "gemm": ()}
    assert _with(plan, engines=engines).engine_table == {"conv": [("fast", 4096), ("lean", 0)], "gemm": []}


@pytest.mark.parametrize(
    "change",
    [{"bytes": 5}, {"tensors": ("b",)}, {"tensors": ("a", "b")}, {"kind": ExchangeKind.BROADCAST}, {"roots": (0,)}],
    ids=str,
)
def test_ranks_that_exchange_otherwise_have_another_hash(plan: Plan, change: dict[str, Any]) -> None:
    other = _with(plan, exchanges=(_exchange(**change), plan.exchanges[1]))
    assert other.exchange_hash != plan.exchange_hash
    assert _with(plan, exchanges=plan.exchanges[::-1]).exchange_hash != plan.exchange_hash
    assert _with(plan, exchanges=plan.exchanges[:1]).exchange_hash != plan.exchange_hash
    assert _with(plan, ranks=3).exchange_hash != plan.exchange_hash


def test_when_a_rank_exchanges_is_its_own_affair_and_so_is_its_model_where_it_has_one_alone(plan: Plan) -> None:
    at = _with(plan, exchanges=(_exchange(run=4, after=1), plan.exchanges[1]))
    model = _with(plan, model=msgspec.structs.replace(plan.model, hash="another"))
    assert at.exchange_hash == plan.exchange_hash
    assert model.exchange_hash != plan.exchange_hash  # ranks that have all the same step
    assert _with(model, rank=0).exchange_hash == _with(plan, rank=1).exchange_hash
