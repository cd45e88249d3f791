"""Ranks that exchange gradients train as one process that accumulates their batches, bit for bit."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.costs import made_up_costs
from support.networks import forward_cnn
from support.rank_worker import state_hash
from support.ranks import ended, environment, free_port, run_ranks
from support.zoo_networks import small_forward

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.state import read_state
from planc.runtime.step import load
from planc.training import Optimizer, differentiate
from planc.training.step_options import DynamicScale, StepOptions
from planc.zoo import ForwardModel

pytest.importorskip("torch")

STEPS = 3
BUCKET_BYTES = 60_000
"""Small, so that the small networks have several buckets."""

NETWORKS = {
    "resnet18": Optimizer("momentum", 0.1),
    "gpt2": Optimizer("adamw", 0.01),
    "bert_base": Optimizer("adam", 0.01),
}
SHARDED = "-sharded"
"""Behind the name of a network whose optimizer state is divided among the ranks."""


def step_of(built: ForwardModel, optimizer: Optimizer, **options: Any) -> onnx.ModelProto:
    return differentiate(
        built.model,
        loss=built.loss,
        optimizer=optimizer,
        parameters=built.parameters,
        options=StepOptions(bucket_bytes=BUCKET_BYTES, **options),
    )


def step_of_cnn(optimizer: Optimizer, **options: Any) -> onnx.ModelProto:
    given = StepOptions(bucket_bytes=1000, **options)
    return differentiate(forward_cnn(4), loss="cross-entropy", optimizer=optimizer, options=given)


def planned(model: onnx.ModelProto, folder: Path, name: str, budget: str = "85%") -> list[str]:
    """The files of a step and of its plan."""
    imported = import_model(model)
    plan = compile_model(imported, made_up_costs(imported.graph), CompileOptions(budget, "mip", time_limit_s=1.0)).plan
    assert plan.ranks > 1
    files = [str(folder / f"{name}.onnx"), str(folder / f"{name}.plan.json")]
    onnx.save(model, files[0])
    plan.save(files[1])
    return files


def accumulated(model: onnx.ModelProto, ranks: int, steps: int = STEPS) -> dict[str, np.ndarray[Any, Any]]:
    """The state of one process, unplanned, after steps on the batches of all ranks."""
    imported = import_model(model)
    step, graph = UnplannedStep(imported), imported.graph
    fed = {
        name: np.asarray(value) for name, value in imported.file.initial_values.items() if name in graph.hyperparameters
    }
    for index in range(steps):
        step({**fed, **micro_batches(imported, ranks, index)})
    return step.state


def micro_batches(imported: ImportedModel, ranks: int, index: int) -> dict[str, Any]:
    """The batches of all ranks in a step, as micro-batches by their own names."""
    feeds: dict[str, Any] = {}
    for rank in range(ranks):
        single = synthetic_feeds(replace(imported.graph, inputs=first_batch(imported)), index * ranks + rank)
        feeds |= {imported.micro_batches[name][rank]: value for name, value in single.items()}
    return feeds


def first_batch(imported: ImportedModel) -> tuple[int, ...]:
    names = set(imported.micro_batches)
    return tuple(t for t in imported.graph.inputs if imported.graph.tensors[t].name in names)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All networks trained by two ranks: what each said, and the state that was saved."""
    folder = tmp_path_factory.mktemp("ranks")
    orders: dict[str, list[list[Any]]] = {}
    for name, optimizer in NETWORKS.items():
        files = planned(step_of(small_forward(name), optimizer, ranks=2), folder, name)
        orders[name] = [[*files, str(folder / f"{name}.safetensors"), STEPS]] * 2
        orders[name + SHARDED] = sharded(name, optimizer, folder)
    first, second = run_ranks(*({"cases": [each[rank] for each in orders.values()]} for rank in range(2)))
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    return {name: (a, b, orders[name]) for name, a, b in zip(orders, first.said, second.said, strict=True)}


def sharded(name: str, optimizer: Optimizer, folder: Path) -> list[list[Any]]:
    """For each of two ranks its order to train a network whose optimizer state is divided."""
    saved = str(folder / f"{name}{SHARDED}.safetensors")
    models = [step_of(small_forward(name), optimizer, ranks=2, sharded=True, rank=rank) for rank in range(2)]
    return [[*planned(model, folder, f"{name}.{rank}"), saved, STEPS] for rank, model in enumerate(models)]


@pytest.fixture(scope="module")
def one_process() -> Callable[[str], dict[str, np.ndarray[Any, Any]]]:
    """The state of one process that accumulates the batches of two ranks, by network."""
    return cache(lambda name: accumulated(step_of(small_forward(name), NETWORKS[name], accumulate=2), 2))


@pytest.mark.parametrize("name", [name + how for name in NETWORKS for how in ("", SHARDED)])
def test_two_ranks_are_one_process_that_accumulates(
    name: str, two_ranks: dict[str, Any], one_process: Callable[[str], dict[str, np.ndarray[Any, Any]]]
) -> None:
    first, second, ((_, _, saved, _), _) = two_ranks[name]
    expected, state = one_process(name.removesuffix(SHARDED)), read_state(Path(saved))
    assert state.keys() == expected.keys()
    differing = [key for key in state if state[key].tobytes() != expected[key].tobytes()]
    assert differing == []
    assert first["losses"] != second["losses"]  # each has a batch of its own
    whole = first["state"] == second["state"] == state_hash(state)
    assert whole != name.endswith(SHARDED)  # else each has a part of it


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_counts_what_its_rank_owns(name: str, two_ranks: dict[str, Any]) -> None:
    """All ranks together have the optimizer's state once, in even parts."""
    whole = import_model(two_ranks[name][2][0][0]).graph
    parts = [import_model(order[0]).graph for order in two_ranks[name + SHARDED][2]]
    size = {whole.tensors[t].name: whole.tensors[t].nbytes for t in whole.state}
    held = [{graph.tensors[t].name for t in graph.state} for graph in parts]
    alone = held[0] ^ held[1]
    assert held[0] | held[1] == size.keys()
    assert alone == parts[0].shards.owners.keys() == parts[1].shards.owners.keys()
    first, second = (sum(size[n] for n in names & alone) for names in held)
    assert 0.8 < first / second < 1.25
    for order, names in zip(two_ranks[name + SHARDED][2], held, strict=True):
        plan = Plan.load(order[1])
        assert {slot for slot, role in plan.inputs.items() if role == "state"} == names


OPTIONS: tuple[dict[str, Any], ...] = (
    {"clip_norm": 0.05},
    {"clip_norm": 0.05, "norm_order": math.inf, "ema_decay": 0.9},
    {"loss_scale": DynamicScale(1024.0, interval=2), "clip_value": 0.01},
    {"accumulate": 2},
    {"accumulate": 2, "clip_norm": 0.05},
)


def test_options_divide_among_ranks_too(tmp_path: Path) -> None:
    """What all gradients say together, averages and loss scales: as where every rank has the whole state."""
    cases: list[list[list[Any]]] = [[], []]
    for rank in range(2):
        for at, options in enumerate(OPTIONS):
            for name, more in {"whole": {}, "parts": {"sharded": True, "rank": rank}}.items():
                model = step_of_cnn(Optimizer("adamw", 0.01, weight_decay=0.1), ranks=2, **options, **more)
                files = planned(model, tmp_path, f"{name}{at}.{rank}", "max")
                cases[rank].append([*files, str(tmp_path / f"{name}{at}"), STEPS])
    first, second = run_ranks({"cases": cases[0]}, {"cases": cases[1]})
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    for at in range(len(OPTIONS)):
        whole, parts = (read_state(tmp_path / f"{name}{at}") for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert [key for key in whole if whole[key].tobytes() != parts[key].tobytes()] == []
        assert first.said[2 * at]["losses"] == first.said[2 * at + 1]["losses"]


def test_state_goes_on_on_ranks_and_on_one(two_ranks: dict[str, Any], tmp_path: Path) -> None:
    """With dropout, whose generators go on too."""
    name, saved = "bert_base", two_ranks["bert_base"][2][0][2]
    model = step_of(small_forward(name), NETWORKS[name], accumulate=2)
    expected = accumulated(model, 2, STEPS + 1)
    order = {"cases": [[*two_ranks[name][2][0][:2], "", STEPS + 1]], "before": saved, "first": STEPS}
    first, second = run_ranks(order, order)
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert first.said[0]["state"] == second.said[0]["state"] == state_hash(expected)
    imported = import_model(model)
    plan = compile_model(imported, made_up_costs(imported.graph), CompileOptions("90%", time_limit_s=1.0)).plan
    with load(plan, imported) as step:
        step.load_state(saved)
        found = micro_batches(imported, 2, STEPS)
        step({name: [found[part] for part in parts] for name, parts in imported.micro_batches.items()})
        assert state_hash(step.state()) == state_hash(expected)


@pytest.mark.parametrize("how", ["", SHARDED])
def test_state_goes_on_divided_and_whole(how: str, two_ranks: dict[str, Any], tmp_path: Path) -> None:
    """What was saved with divided state is gone on from with whole state, and the other way round."""
    name, saved = "bert_base", two_ranks["bert_base" + ("" if how else SHARDED)][2][0][2]
    expected = accumulated(step_of(small_forward(name), NETWORKS[name], accumulate=2), 2, STEPS + 1)
    target = tmp_path / "state.safetensors"
    orders = [
        {"cases": [[*order[:2], str(target), STEPS + 1]], "before": saved, "first": STEPS}
        for order in two_ranks[name + how][2]
    ]
    first, second = run_ranks(*orders)
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert state_hash(read_state(target)) == state_hash(expected)


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["shard"]])
def test_compile_step_is_one_of_the_ranks(how: list[str], tmp_path: Path) -> None:
    """And saves once, and goes on from the file."""
    command = [sys.executable, "-m", "support.rank_torch", str(tmp_path)]
    port, cached = free_port(), {"PLANC_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [*command, *how],
            env=environment(rank, 2, port, **cached),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = ended(processes)
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["2.safetensors"]
    alone = {n: v for n, v in environment(0, 1, port, **cached).items() if n not in ("RANK", "WORLD_SIZE")}
    result = subprocess.run(command, env=alone, capture_output=True, text=True, check=True)
    expected = json.loads(result.stdout)
    for rank in (first, second):
        assert [module for module, _ in rank.said] == [module for module, _ in expected]
        assert (rank.said == expected) != bool(how)  # else each has a part of the state


@pytest.mark.parametrize("how", ["", SHARDED])
def test_torchrun_starts_the_command(how: str, two_ranks: dict[str, Any]) -> None:
    """With divided state, the names of files have the rank's place."""
    model, plan = (path.replace(".0.", ".{rank}.") for path in two_ranks["gpt2" + how][2][0][:2])
    assert ("{rank}" in plan) == bool(how)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    planc = str(Path(sys.executable).with_name("planc"))
    command = [*launcher, "--no-python", planc, "run", plan, "--model", model, "--ranks", "--steps", "2", "--json"]
    result = subprocess.run(
        command, env=environment(0, 1, free_port()), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 2  # one rank prints
