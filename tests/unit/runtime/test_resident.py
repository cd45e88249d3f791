"""Memory that is real: a step that does not fit the process unplanned trains with a plan, and what is told of it holds."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import networks
from support.costs import made_up_costs
from support.plans import random_plan

from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.enums import HostTierKind
from planc.errors import DeviceError, InfeasibleBudgetError, UsageError
from planc.importer.import_model import import_model
from planc.profiling.cpu_link import measure_link
from planc.runtime.file_tier import FileTier
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.resident import peak_resident_bytes, reset_peak, resident_bytes, unplanned_growth_bytes
from planc.runtime.step import load
from planc.runtime.tiers import FOLDER_VARIABLE, TIER_VARIABLE, RamTier, chosen_tier, open_tier, swap_folder, tier_kind
from planc.training import differentiate
from planc.training.optimizers import Optimizer

MIB = 1 << 20
DEPTH, ROWS, WIDTH = 24, 32768, 64  # an activation of 8 MiB is saved by every layer


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron whose activations are many times its parameters, and a plan that swaps them all."""
    rng = np.random.default_rng(0)
    nodes, parameters, at = [], [], "x"
    for i in range(DEPTH):
        parameters.append(
            numpy_helper.from_array((rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32), f"w{i}")
        )
        nodes.append(helper.make_node("MatMul", [at, f"w{i}"], [f"h{i}"], name=f"fc{i}"))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"t{i}"], name=f"tanh{i}"))
        at = f"t{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])
    y = helper.make_tensor_value_info(at, TensorProto.FLOAT, [ROWS, WIDTH])
    graph = helper.make_graph(nodes, "deep", [x], [y], parameters)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    onnx.save(differentiate(model, loss="mse", optimizer=Optimizer("sgd")), path)
    imported = import_model(path)
    costs = made_up_costs(imported.graph, scratch=1 << 16, bandwidth=10**10)
    result = CompileJob.of(imported, costs).compile(CompileOptions("50%", solver="vdnn-all", time_limit_s=5.0))
    assert result.plan.memory.host_bytes > 4 * result.plan.memory.slab_bytes
    result.plan.save(path.with_suffix(".plan.json"))
    return path


_TRAIN = """
import hashlib, json, resource, sys
import onnxruntime
from pathlib import Path
from planc.importer.import_model import import_model
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.ort.sessions import prepare_threads
from planc.runtime.resident import _status
from planc.runtime.step import load

path, planned, limit, tier = Path(sys.argv[1]), sys.argv[2] == "planned", int(sys.argv[3]), sys.argv[4]
prepare_threads()
imported = import_model(path)
if limit:
    bound = _status("VmData") + limit
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
digest = hashlib.sha256()
step = load(path.with_suffix(".plan.json"), imported, host_tier=tier) if planned else UnplannedStep(imported)
for seed in range(2):
    digest.update(step(synthetic_feeds(imported.graph, seed))["loss"].tobytes())
state = step.state() if planned else step.state
for name in sorted(state):
    digest.update(state[name].tobytes())
print(json.dumps(digest.hexdigest()))
"""


def _trained(model: Path, kind: str, limit: int, tier: str = "file") -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", _TRAIN, str(model), kind, str(limit), tier]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)


def test_a_step_that_the_process_has_no_memory_for_trains_with_a_plan_to_the_same_bits(
    deep: Path, tmp_path: Path
) -> None:
    """The limit is on what the process may write to (RLIMIT_DATA): unplanned and swapping to memory it is refused."""
    free = _trained(deep, "unplanned", 0)
    assert free.returncode == 0, free.stderr
    limit = 140 * MIB
    assert _trained(deep, "unplanned", limit).returncode != 0
    assert _trained(deep, "planned", limit, "ram").returncode != 0
    planned = _trained(deep, "planned", limit, f"file:{tmp_path}")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == free.stdout
    assert list(tmp_path.iterdir()) == []


def test_run_tells_by_how_much_processes_grow(deep: Path) -> None:
    command = [str(Path(sys.executable).with_name("planc")), "run", str(deep.with_suffix(".plan.json")), "--json"]
    grown = {}
    for tier, more in (("file", ["--steps", "1", "--compare"]), ("ram", ["--steps", "1"])):
        result = subprocess.run([*command, "--host-tier", tier, *more], capture_output=True, text=True, check=True)
        grown[tier] = json.loads(result.stdout)
        assert ("this models a card" in result.stderr) == (tier == "ram")
    assert grown["file"]["bitwise_equal"] is True
    for data in grown.values():
        assert abs(data["predicted_growth_bytes"] - data["resident_growth_bytes"]) < 12 * MIB
    host = grown["ram"]["resident_growth_bytes"] - grown["file"]["resident_growth_bytes"]
    assert host > 150 * MIB
    assert grown["file"]["resident_growth_bytes"] < 0.75 * grown["file"]["unplanned_growth_bytes"]


def test_a_budget_for_the_process_is_what_it_grows_by(deep: Path, tmp_path: Path) -> None:
    imported = import_model(deep)
    costs = made_up_costs(imported.graph, scratch=1 << 16, bandwidth=10**10)
    job = CompileJob.of(
        imported, msgspec.structs.replace(costs, link=msgspec.structs.replace(costs.link, tier=HostTierKind.FILE))
    )
    plan = tmp_path / "deep.plan.json"
    job.compile(CompileOptions("process:100MiB", time_limit_s=3.0)).plan.save(plan)
    command = [str(Path(sys.executable).with_name("planc")), "run", str(plan), "--model", str(deep), "--json"]
    result = subprocess.run(
        [*command, "--host-tier", "file", "--steps", "2"], capture_output=True, text=True, check=True
    )
    assert 70 * MIB < json.loads(result.stdout)["resident_growth_bytes"] < 105 * MIB
    with pytest.raises(InfeasibleBudgetError, match="beside its plan the process takes .* give process:") as refused:
        job.compile(CompileOptions("process:40MiB"))
    enough = refused.value.minimum_budget_bytes
    assert job.budget_bytes(f"process:{enough}B") == job.least_bytes
    assert job.budget_bytes("process:100%") == job.roomy_bytes


def test_a_card_has_no_budget_for_a_process(deep: Path) -> None:
    imported = import_model(deep)
    costs = made_up_costs(imported.graph, scratch=1 << 16, bandwidth=10**10)
    card = msgspec.structs.replace(costs, device=msgspec.structs.replace(costs.device, kind="cuda"))
    with pytest.raises(UsageError, match="a memory of its own"):
        CompileJob.of(imported, card).budget_bytes("process:100MiB")


def test_growth_is_what_the_system_counts() -> None:
    reset_peak()
    before = resident_bytes()
    held = np.ones(64 * MIB, np.uint8)
    assert 60 * MIB < resident_bytes() - before < 80 * MIB
    del held
    assert peak_resident_bytes() - before > 60 * MIB


def test_a_model_that_does_not_run_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(DeviceError, match="does not run in a process of its own.*m.onnx"):
        unplanned_growth_bytes(tmp_path / "m.onnx", 1, 0)


# --- where swapped bytes go


def test_without_a_word_swapped_bytes_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIER_VARIABLE)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert chosen_tier(None) == "file"
    tier = open_tier("file", 1 << 20)
    assert isinstance(tier, FileTier)
    assert swap_folder() == tmp_path or FileTier(swap_folder(), 1).memory_bytes
    tier.close()
    assert isinstance(open_tier("file", 0), RamTier)
    assert measure_link(chosen_tier(None)).tier is HostTierKind.FILE


@pytest.mark.parametrize("text", ["", "file:", "RAM", "disk", "ram:1"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected ram, file or file:PATH"):
        tier_kind(text)


def test_a_plan_goes_where_its_costs_were_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIER_VARIABLE)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    imported = networks.cnn()
    plan = random_plan(imported, 5)
    want = UnplannedStep(imported)
    want(synthetic_feeds(imported.graph, 0))
    for kind, type_ in ((HostTierKind.RAM, RamTier), (HostTierKind.FILE, FileTier)):
        moved = msgspec.structs.replace(plan, memory=msgspec.structs.replace(plan.memory, host_tier=kind))
        with load(moved, imported) as step:
            assert isinstance(step.device._tier, type_)
            step(synthetic_feeds(imported.graph, 0))
            assert all(step.state()[name].tobytes() == value.tobytes() for name, value in want.state.items())
