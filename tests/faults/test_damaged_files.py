"""Files damaged at random: every command answers with a message and one of its exit codes, never with a traceback."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

import click
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.costs import made_up_costs
from support.damage import damage_bytes, damage_document, damage_model
from support.zoo_networks import MOMENTUM, small_forward, small_step

from planc.cli.main import app
from planc.costs.store import write_costs
from planc.errors import PlancError
from planc.importer.import_model import import_model

INSTANCE = Path(__file__).parents[2] / "benchmarks/solver/instances/random_layered_250.json"
BUDGETS = ("70%", "min", "100%", "300KiB")
EXIT_CODES = {0, 2, 3, 4, 5, 6, 7}

seeded = given(seed=st.integers(0, 10**9))
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def planc(*arguments: object) -> int:
    """The exit code of a command, run in this process; what is not a user's error comes out as an exception."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app([str(argument) for argument in arguments], standalone_mode=False)
        except (PlancError, click.ClickException) as error:
            return error.exit_code if str(error) else 1
        except (SystemExit, click.exceptions.Exit) as error:
            return int(getattr(error, "exit_code", getattr(error, "code", 0)) or 0)
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its costs, its plan and its forward model, all sound."""
    folder = tmp_path_factory.mktemp("whole")
    model = small_step("mlp", MOMENTUM)
    onnx.save(model, folder / "train.onnx")
    onnx.save(small_forward("mlp").model, folder / "forward.onnx")
    write_costs(made_up_costs(import_model(folder / "train.onnx").graph, scratch=4 << 10), folder / "costs.json")
    compiled = ("--costs", folder / "costs.json", "--budget", "80%", "--time-limit", "1")
    assert planc("compile", folder / "train.onnx", *compiled, "-o", folder / "train.plan.json") == 0
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path) -> Path:
    """A copy of that folder to do damage in."""
    return Path(shutil.copytree(whole, tmp_path / "here"))


def damaged_json(path: Path, rng: random.Random) -> None:
    document = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2, 4))):
        damage_document(document, rng)
    path.write_text(json.dumps(document))


@few
@seeded
def test_a_damaged_plan(whole: Path, here: Path, seed: int) -> None:
    rng, plan = random.Random(seed), here / "train.plan.json"
    shutil.copy(whole / "train.plan.json", plan)
    if rng.random() < 0.3:
        plan.write_bytes(damage_bytes(plan.read_bytes(), rng))
    else:
        damaged_json(plan, rng)
    assert planc("verify", plan) in EXIT_CODES
    assert planc("inspect", plan, "--at-peak", "--trace", here / "trace.json") in EXIT_CODES
    assert planc("inspect", plan, "--html", here / "page.html") in EXIT_CODES
    assert planc("run", plan, "--steps", 1) in EXIT_CODES


@few
@seeded
def test_a_damaged_cost_table(whole: Path, here: Path, seed: int) -> None:
    rng, costs = random.Random(seed), here / "costs.json"
    shutil.copy(whole / "costs.json", costs)
    damaged_json(costs, rng)
    options = ("--costs", costs, "--budget", rng.choice(BUDGETS), "--time-limit", 0.2, "-o", here / "new.plan.json")
    assert planc("compile", here / "train.onnx", *options) in EXIT_CODES


@few
@seeded
def test_a_damaged_model(whole: Path, here: Path, seed: int) -> None:
    rng, path = random.Random(seed), here / "train.onnx"
    if rng.random() < 0.4:
        path.write_bytes(damage_bytes((whole / "train.onnx").read_bytes(), rng))
    else:
        model = onnx.load(whole / "train.onnx")
        damage_model(model, rng)
        onnx.save(model, path)
    options = ("--device", "H100", "--budget", rng.choice(BUDGETS), "--time-limit", 0.2, "-o", here / "new.plan.json")
    assert planc("compile", path, *options) in EXIT_CODES
    assert planc("run", here / "train.plan.json", "--steps", 1) in EXIT_CODES


@few
@seeded
def test_a_damaged_forward_model(whole: Path, here: Path, seed: int) -> None:
    rng, path = random.Random(seed), here / "forward.onnx"
    model = onnx.load(whole / "forward.onnx")
    damage_model(model, rng)
    onnx.save(model, path)
    loss = rng.choice(("cross-entropy", "mse", "output"))
    assert planc("grad", path, "--loss", loss, "-o", here / "grad.onnx") in EXIT_CODES


@settings(few, max_examples=25)
@seeded
def test_a_damaged_instance(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "instance.json"
    shutil.copy(INSTANCE, path)
    damaged_json(path, rng)
    budget = rng.choice(("95%", "min", "50%", "1GiB"))
    assert planc("solve", path, "--budget", budget, "--time-limit", 0.2, "--json") in EXIT_CODES


@few
@seeded
def test_damaged_buffers(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "buffers.csv"
    rows = ["id,lower,upper,size"] + [f"{i},{i},{i + rng.randrange(9)},{rng.randrange(100)}" for i in range(6)]
    path.write_bytes(damage_bytes("\n".join(rows).encode(), rng))
    capacity = rng.choice(((), ("--capacity", 10), ("--capacity", 300), ("--capacity", -1)))
    assert planc("pack", path, *capacity, "--time-limit", 0.2, "-o", tmp_path / "out.csv") in EXIT_CODES
