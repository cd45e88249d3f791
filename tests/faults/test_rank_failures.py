"""What goes wrong with one rank ends every other one, in bounded time, with a message that names rank and cause."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import helper
from support.costs import made_up_costs
from support.networks import forward_cnn
from support.ranks import ended, environment, free_port, run_ranks, started

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.errors import ModelError
from planc.importer.exchanges import rank_count
from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions

pytest.importorskip("torch")

SOON_S = 45
"""Two processes that start PyTorch on a busy machine, the seconds in which a cause is sought, and room."""


def files_of(folder: Path, name: str = "step", batch: int = 4, **options: Any) -> list[str]:
    """A step of two ranks and its plan."""
    step = StepOptions(ranks=2, bucket_bytes=1000, **options)
    built = differentiate(forward_cnn(batch), loss="cross-entropy", optimizer=Optimizer("momentum"), options=step)
    imported = import_model(built)
    plan = compile_model(imported, made_up_costs(imported.graph), CompileOptions(time_limit_s=0.3)).plan
    files = [str(folder / f"{name}.onnx"), str(folder / f"{name}.plan.json")]
    onnx.save(built, files[0])
    plan.save(files[1])
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return files_of(tmp_path_factory.mktemp("failures"))


FAILURES = {
    "die": "rank 1 died",
    "raise": "rank 1 failed: FeedError: input",
    "leave": "rank 1 has closed its step after",
    "state": "rank 1 has another state",
}


@pytest.mark.parametrize(("how", "at"), [("die", 2), ("raise", 2), ("leave", 2), ("state", 0)])
def test_a_rank_that_fails_is_named(how: str, at: int, files: list[str], tmp_path: Path) -> None:
    target, begun = tmp_path / "state.safetensors", time.monotonic()
    processes = started(
        [{"cases": [[*files, str(target), 4]]}, {"cases": [[*files, str(target), 4]], "fail": [at, how]}]
    )
    first = ended(processes[:1], SOON_S)[0]
    assert time.monotonic() - begun < SOON_S
    ended_or_killed(processes[1])
    assert first.code == 8, first.messages
    assert FAILURES[how] in first.messages
    assert not target.exists()
    assert list(tmp_path.iterdir()) == []  # no part of a file either


def ended_or_killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_rank_that_does_not_come_in_time_is_named(files: list[str], tmp_path: Path) -> None:
    case = {"cases": [[*files, str(tmp_path / "state"), 4]]}
    processes = started([case, {**case, "fail": [2, "sleep"]}], PLANC_RANK_TIMEOUT="6")
    first = ended(processes[:1], SOON_S)[0]
    ended_or_killed(processes[1])
    assert first.code == 8, first.messages
    assert "rank 1 is in step 1" in first.messages
    assert "took over 6 s" in first.messages
    assert not (tmp_path / "state").exists()


def sharded_files(folder: Path, **options: Any) -> list[list[str]]:
    """The step and plan of each of two ranks between which the optimizer's state is divided."""
    return [files_of(folder, f"step{rank}", sharded=True, rank=rank, **options) for rank in range(2)]


def test_a_rank_that_dies_with_its_part_of_the_state_leaves_no_file(tmp_path: Path) -> None:
    target, own = tmp_path / "state.safetensors", sharded_files(tmp_path)
    first, second = ({"cases": [[*files, str(target), 3]]} for files in own)
    processes = started([first, {**second, "fail": [2, "die saving"]}])
    (ending,) = ended(processes[:1], SOON_S)
    ended_or_killed(processes[1])
    assert ending.code == 8, ending.messages
    assert "rank 1 died" in ending.messages
    assert not list(tmp_path.glob("state*"))


def test_the_plan_of_another_rank_is_named_by_both(tmp_path: Path) -> None:
    order = {"cases": [[*sharded_files(tmp_path)[0], "", 1]]}
    first, second = run_ranks(order, order)
    assert (first.code, second.code) == (8, 3), first.messages + second.messages
    assert "the plan is that of rank 0, this is rank 1" in second.messages
    assert "rank 1 failed: PlanError: the plan is that of rank 0" in first.messages


def test_parts_of_other_steps_are_named_by_every_rank(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    own, other = sharded_files(tmp_path), sharded_files(tmp_path / "other", clip_value=1.0)
    for rank in run_ranks({"cases": [[*own[0], "", 1]]}, {"cases": [[*other[1], "", 1]]}):
        assert rank.code == 8, rank.messages
        assert "rank 1 has another model than rank 0" in rank.messages
        assert "give every rank its own of the plans for one step" in rank.messages


@pytest.mark.parametrize("at", [0, 2])
def test_another_hyperparameter_is_named_by_every_rank(at: int, files: list[str]) -> None:
    """At once in the first step, later within some seconds: steps do not wait for the comparison."""
    order = {"cases": [[*files, "", 100_000]]}
    begun = time.monotonic()
    first, second = run_ranks(order, {**order, "fail": [at, "lr"]}, PLANC_RANK_TIMEOUT="20")
    assert time.monotonic() - begun < SOON_S
    assert {first.code, second.code} == {8}, first.messages + second.messages
    told = [rank.messages for rank in (first, second) if "rank 1 has another hyper-parameter 'lr'" in rank.messages]
    assert told
    assert all("0.5, not 0.01" in text for text in told)


def test_another_order_of_exchanges_is_named_by_every_rank(files: list[str], tmp_path: Path) -> None:
    plan = Plan.load(files[1])
    several = max(plan.exchanges, key=lambda exchange: len(exchange.tensors))
    changed = msgspec.structs.replace(several, tensors=several.tensors[::-1])
    assert changed != several
    exchanges = tuple(changed if exchange == several else exchange for exchange in plan.exchanges)
    msgspec.structs.replace(plan, exchanges=exchanges).save(tmp_path / "other.plan.json")
    other = [files[0], str(tmp_path / "other.plan.json")]
    for rank in run_ranks({"cases": [[*files, "", 1]]}, {"cases": [[*other, "", 1]]}):
        assert rank.code == 8, rank.messages
        assert "rank 1 has another plan (order of exchanges) than rank 0" in rank.messages


def test_state_that_one_rank_alone_replaces_ends_all_in_time(files: list[str]) -> None:
    case = {"cases": [[*files, "", 4]]}
    for rank in run_ranks(case, {**case, "fail": [2, "state"]}, PLANC_RANK_TIMEOUT="5"):
        assert rank.code == 8, rank.messages
        assert "rank 0 did not come to 'state' within 5 s" in rank.messages


def test_the_rank_that_keeps_the_store_may_die_too(files: list[str], tmp_path: Path) -> None:
    case = {"cases": [[*files, str(tmp_path / "state"), 4]]}
    _, second = run_ranks({**case, "fail": [2, "die"]}, case)
    assert second.code == 8, second.messages
    assert "rank 0" in second.messages
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_written_ends_all(files: list[str]) -> None:
    case = {"cases": [[*files, "/proc/none/state.safetensors", 2]]}
    first, second = run_ranks(case, case)
    assert first.code == 2, first.messages
    assert second.code == 8
    assert "rank 0 failed: OutputError" in second.messages


def test_another_batch_shape_is_named_by_every_rank(files: list[str], tmp_path: Path) -> None:
    other = files_of(tmp_path, "other", batch=6)
    first, second = run_ranks({"cases": [[*files, "", 1]]}, {"cases": [[*other, "", 1]]})
    for rank in (first, second):
        assert rank.code == 8, rank.messages
        assert (
            "rank 1 has another shape of batch input 'x' than rank 0: [6, 3, 12, 12], not [4, 3, 12, 12]"
            in rank.messages
        )


def test_another_plan_is_named_by_every_rank(files: list[str], tmp_path: Path) -> None:
    other = files_of(tmp_path, "other", clip_value=1.0)
    first, second = run_ranks({"cases": [[*files, "", 1]]}, {"cases": [[*other, "", 1]]})
    for rank in (first, second):
        assert rank.code == 8, rank.messages
        assert "rank 1 has another model than rank 0" in rank.messages


def test_another_version_is_named_by_every_rank(files: list[str]) -> None:
    order = {"cases": [[*files, "", 1]]}
    first, second = run_ranks(order, {**order, "version": "9.9"})
    for rank in (first, second):
        assert rank.code == 8, rank.messages
        assert "rank 1 has another version of planc than rank 0: 9.9" in rank.messages


def test_a_rank_that_never_starts_is_waited_for_in_bounded_time(files: list[str]) -> None:
    (first,) = ended(started([{"cases": [[*files, "", 1]]}], size=2, PLANC_RANK_TIMEOUT="4"), SOON_S)
    assert first.code == 8, first.messages
    assert "rank 1 did not come to 'plan' within 4 s" in first.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "3"}, "is for 2 ranks, 3 were started"),
        ({"WORLD_SIZE": "1"}, "is for 2 ranks, this process is alone"),
        ({"RANK": "7"}, "RANK is 7, expected one of 0 to 1"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(files: list[str], changes: dict[str, str], message: str) -> None:
    settings = {**environment(0, 2, free_port()), **changes}
    command = [sys.executable, "-m", "support.rank_worker", json.dumps({"cases": [[*files, "", 1]]})]
    result = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=SOON_S, check=False)
    assert result.returncode in (2, 3)
    assert message in result.stderr


def test_exchanges_for_different_numbers_of_ranks_are_refused(files: list[str]) -> None:
    model = onnx.load(files[0])
    nodes = [node for node in model.graph.node if node.op_type.startswith("AllReduce")]
    nodes[0].attribute[0].CopyFrom(helper.make_attribute("ranks", 3))
    with pytest.raises(ModelError, match="its exchanges are for 2 and 3 ranks"):
        rank_count(nodes, "the model")
    with pytest.raises(ModelError, match="is called with operands or attributes of"):
        import_model(model)


def test_a_rank_may_take_longer_than_the_others_to_open_its_next_step(files: list[str]) -> None:
    order = {"cases": [[*files, "", 1], [*files, "", 1]]}
    first, second = run_ranks(order, {**order, "pause": 1.5})
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert [case["state"] for case in first.said] == [case["state"] for case in second.said]
