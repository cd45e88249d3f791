"""Exchanges on the emulated card: beside compute and copies, ordered by the plan, without a race."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cuda_emulator.emulator import Emulator
from support.emulated import card, cuda_plan, expected, open_step, run_steps
from support.lone_rank import LoneRank
from support.networks import forward_cnn

from planc.enums import ExchangeKind
from planc.errors import DeviceError, RankError
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.runtime.cuda import nccl
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions

__all__ = ["card"]

SCHEDULES = 30


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> LoneRank:
    group = LoneRank()
    monkeypatch.setattr("planc.runtime.step.group_for", lambda plan, _name: group if plan.ranks > 1 else None)
    monkeypatch.setattr("planc.runtime.step.greet", lambda *_: None)
    return group


def step_of(**options: Any) -> ImportedModel:
    given = StepOptions(ranks=2, bucket_bytes=1000, **options)
    return import_model(
        differentiate(forward_cnn(4), loss="cross-entropy", optimizer=Optimizer("momentum"), options=given)
    )


def distant(plan: Plan) -> int:
    """How many exchanges begin before the run that awaits them."""
    return sum(exchange.after < exchange.run for exchange in plan.exchanges)


@pytest.mark.parametrize(("sharded", "seed"), [(False, 0), (False, 1), (True, 0), (True, 2)])
def test_exchanges_race_with_nothing(card: Emulator, sharded: bool, seed: int) -> None:
    imported = step_of(sharded=sharded)
    plan = cuda_plan(imported, seed)
    assert plan.copies
    assert distant(plan)
    want = expected(card, imported, 2)
    with open_step(card, imported, plan) as step:
        start = step.state()
        for schedule in range(SCHEDULES):
            card.reset(schedule)
            step.set_state(start)
            assert run_steps(step, imported, 2) == want
            assert card.problems == []
        ran = [line for line in card.trace() if line.split()[0] in ("all-reduce", "reduce", "broadcast")]
        assert len(ran) == 2 * sum(len(exchange.tensors) for exchange in plan.exchanges)


@pytest.mark.parametrize("how", ["after", "run"])
def test_an_exchange_at_the_wrong_place_is_seen(card: Emulator, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator tells a plan that starts one too early, or awaits it too late: it knows nothing of plans."""
    imported = step_of()
    plan = cuda_plan(imported, 0)
    index = next(i for i, e in enumerate(plan.exchanges) if e.after < e.run)
    wrong = plan.exchanges[index]
    firsts = [first for first, _ in plan.segments]
    if how == "after":
        changed = msgspec.structs.replace(wrong, after=max(first for first in firsts if first < wrong.after))
    monkeypatch.setattr("planc.runtime.step.require_valid", lambda *_: None)
    if how == "run":  # nobody waits for it
        monkeypatch.setattr("planc.runtime.executor.Executor._exchange", _unawaited)
        changed = wrong
    exchanges = (*plan.exchanges[:index], changed, *plan.exchanges[index + 1 :])
    found: set[str] = set()
    with open_step(card, imported, msgspec.structs.replace(plan, exchanges=exchanges)) as step:
        start = step.state()
        for schedule in range(SCHEDULES):
            card.reset(schedule)
            step.set_state(start)
            run_steps(step, imported, 2)
            found.update(card.problems)
    assert any("all-reduce" in text for text in found), found


def _unawaited(executor: Any, index: int) -> Any:
    from planc.runtime.device import Engine

    event = executor._device.record(Engine.COMPUTE)
    executor._device.wait(Engine.EXCHANGE, event)
    exchange = executor._plan.exchanges[index]
    executor._device.exchange(exchange.kind, executor._operands[index], exchange.roots)
    return event


def test_an_exchange_that_fails_is_told(card: Emulator) -> None:
    imported = step_of()
    plan = cuda_plan(imported, 0)
    card.fail("exchange", 2)
    with (
        open_step(card, imported, plan, replay=False) as step,
        pytest.raises(DeviceError, match="NCCL's ncclAllReduce failed: emulated failure"),
    ):
        run_steps(step, imported, 1)


class _Entered:
    def enter(self) -> None:
        return


@pytest.mark.parametrize(("blamed", "told"), [("rank 1 died", []), (None, ["the cards of the ranks did not connect"])])
def test_cards_that_do_not_connect_end_all_ranks(
    blamed: str | None, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is the first to know tells the others; what another rank is to blame for, all see."""
    monkeypatch.setattr(nccl, "_checked", lambda function, *_: time.sleep(30) if "InitRank" in function else None)
    group = LoneRank(timeout_s=0.6)
    group.blamed = blamed
    begun = time.monotonic()
    with pytest.raises(RankError, match=blamed or r"the cards of the ranks did not connect within 0\.6 s"):
        nccl.NcclSums(group, _Entered(), None)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 5
    assert [text.partition(" within")[0] for text in group.told] == told
    assert group.parted


@pytest.mark.parametrize(
    ("blamed", "told"), [("rank 1 died", "rank 1 died"), (None, "the card was busy for over 0.6 s")]
)
def test_a_rank_that_does_not_come_frees_whoever_queues(
    blamed: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL connects the cards with the first exchange, and waits for the others while it is queued."""
    given_up = threading.Event()

    def checked(function: str, *arguments: Any) -> None:
        if function == "ncclCommInitRank":
            arguments[0]._obj.value = 1
        if function == "ncclGroupEnd":
            assert given_up.wait(30)
            raise DeviceError("NCCL's ncclGroupEnd failed")

    monkeypatch.setattr(nccl, "_checked", checked)
    monkeypatch.setattr(nccl, "_library", lambda: SimpleNamespace(ncclCommAbort=lambda _: given_up.set()))
    group = LoneRank(timeout_s=0.6)
    sums = nccl.NcclSums(group, _Entered(), None)  # type: ignore[arg-type]
    group.blamed = blamed
    with pytest.raises(RankError, match=told):
        sums.queue(0, ExchangeKind.ALL_REDUCE, [])
    assert group.parted
    sums.close()
