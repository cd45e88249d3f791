"""The command line: results, exit codes, and messages instead of tracebacks."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support import networks
from support.costs import made_up_costs

from planc.costs.store import write_costs
from planc.graph import annotations
from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions
from planc.training.updates import AVERAGE
from planc.zoo import families

Result = tuple[int, str, str]
Planc = Callable[..., Result]


@pytest.fixture
def train(tmp_path: Path, planc: Planc) -> Path:
    """A training graph made by `planc grad`, with costs beside it."""
    onnx.save(networks.forward_cnn(batch=8, channels=16, image=32), tmp_path / "forward.onnx")
    path = tmp_path / "train.onnx"
    how = ("--loss", "cross-entropy", "--optimizer", "momentum", "--device", "cpu")
    assert planc("grad", tmp_path / "forward.onnx", *how, "-o", path)[0] == 0
    write_costs(made_up_costs(import_model(path).graph, scratch=640 << 10), tmp_path / "costs.json")
    return path


def _compile(planc: Planc, train: Path, budget: str, *more: str) -> Result:
    costs = train.parent / "costs.json"
    return planc("compile", train, "--costs", costs, "--budget", budget, "--time-limit", "5", *more)


def test_compile_verify_inspect_run(planc: Planc, train: Path, tmp_path: Path) -> None:
    code, out, err = _compile(planc, train, "90%", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["status"] in ("optimal", "feasible")
    assert result["slab_bytes"] + result["scratch_bytes"] <= result["budget_bytes"]
    assert result["lower_bound_ns"] <= result["predicted_step_ns"]
    plan = tmp_path / "train.plan.json"
    assert Plan.load(plan).memory.slab_bytes == result["slab_bytes"]

    code, out, _ = planc("verify", plan, "--json")
    assert (code, json.loads(out)) == (0, {"valid": True, "violations": []})

    code, out, _ = planc("inspect", plan)
    assert code == 0
    assert "budget" in out

    code, out, _ = planc("run", plan, "--steps", "3", "--compare", "--json")
    measured = json.loads(out)
    assert (code, measured["bitwise_equal"], measured["differing_values"]) == (0, True, 0)
    assert measured["steps"] == len(measured["losses"]) == 3
    assert measured["peak_slab_bytes"] + measured["peak_scratch_bytes"] <= result["budget_bytes"]
    assert measured["predicted_step_ns"] == result["predicted_step_ns"]


def test_an_infeasible_budget_names_the_smallest_and_its_layer(planc: Planc, train: Path) -> None:
    code, out, err = _compile(planc, train, "2%", "--json")
    refused = json.loads(out)
    assert (code, refused["status"]) == (4, "infeasible")
    assert refused["budget_bytes"] < refused["minimum_budget_bytes"]
    smallest, layer = str(refused["minimum_budget_bytes"]), refused["minimum_layer"]
    assert f"the smallest feasible one is {smallest} bytes" in err
    assert f"set by layer {layer!r}" in err
    assert layer.split()[-1] in ("forward", "backward", "update")
    assert _compile(planc, train, "2%")[:2] == (4, "")
    assert _compile(planc, train, smallest)[0] == 0
    assert _compile(planc, train, str(int(smallest) - 64))[0] == 4


def test_the_budget_min_is_that_smallest_one(planc: Planc, train: Path) -> None:
    result = json.loads(_compile(planc, train, "min", "--json")[1])
    assert result["budget_bytes"] == result["minimum_budget_bytes"]


@pytest.mark.parametrize("budget", ["lots", "-5", "0", "50 furlongs", "0%"])
def test_an_unreadable_budget_is_a_usage_error(planc: Planc, train: Path, budget: str) -> None:
    code, _, err = _compile(planc, train, budget)
    assert code == 2
    assert "Traceback" not in err


def test_a_forward_model_is_answered_with_the_command_to_run(planc: Planc, train: Path) -> None:
    code, _, err = planc("compile", train.parent / "forward.onnx")
    assert code == 2
    assert f"planc grad {train.parent / 'forward.onnx'} --loss" in err


def test_a_forward_model_is_differentiated_on_the_way(
    planc: Planc, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(train.parent / "cache"))
    forward = train.parent / "forward.onnx"
    code, out, _ = planc("compile", forward, "--loss", "cross-entropy", "--time-limit", "3", "--json")
    assert code == 0
    assert json.loads(out)["plan"].endswith("forward.train.plan.json")
    assert len(list((train.parent / "cache").iterdir())) == 1


def test_an_unknown_solver_or_device_is_a_usage_error(planc: Planc, train: Path) -> None:
    assert _compile(planc, train, "90%", "--solver", "magic")[0] == 2
    assert planc("compile", train, "--device", "abacus")[0] == 2
    assert planc("profile", train, "--device", "abacus", "-o", train.parent / "c.json")[0] == 2


def test_costs_of_another_model_are_refused(planc: Planc, train: Path) -> None:
    write_costs(made_up_costs(networks.mlp().graph), train.parent / "costs.json")
    code, _, err = _compile(planc, train, "90%")
    assert code == 7
    assert "another model" in err


def test_a_missing_model_plan_or_cost_table_is_named(planc: Planc, train: Path, tmp_path: Path) -> None:
    for arguments, code, name in (
        (("compile", tmp_path / "no.onnx"), 3, "no.onnx"),
        (("verify", tmp_path / "no.json"), 3, "no.json"),
        (("run", tmp_path / "no.json"), 3, "no.json"),
        (("compile", train, "--costs", tmp_path / "no.json"), 7, "no.json"),
    ):
        got, out, err = planc(*arguments)
        assert (got, out) == (code, "")
        assert name in err
        assert "Traceback" not in err


def test_an_altered_plan_fails_verification(planc: Planc, train: Path, tmp_path: Path) -> None:
    _compile(planc, train, "90%")
    path = tmp_path / "train.plan.json"
    raw = json.loads(path.read_text())
    raw["residencies"][5]["offset"] += 64
    raw["runs"] = raw["runs"][::-1]
    path.write_text(json.dumps(raw))
    code, out, err = planc("verify", path, "--json")
    assert code == 6
    assert json.loads(out)["valid"] is False
    assert json.loads(out)["violations"]
    assert planc("run", path)[0] == 6
    assert "Traceback" not in err


def test_a_plan_of_another_model_is_refused(planc: Planc, train: Path, tmp_path: Path) -> None:
    _compile(planc, train, "90%")
    onnx.save(networks.mlp().file.proto, tmp_path / "other.onnx")
    code, _, err = planc("run", tmp_path / "train.plan.json", "--model", tmp_path / "other.onnx")
    assert code == 3
    assert "was compiled for train.onnx" in err


def test_nothing_is_left_half_written(planc: Planc, train: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    assert _compile(planc, train, "90%", "-o", str(tmp_path / "missing" / "p.json"))[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_every_policy_goes_the_whole_way(planc: Planc, train: Path, tmp_path: Path) -> None:
    for solver, budget in (("keep-all", "110%"), ("vdnn-all", "90%"), ("sqrt-n", "105%"), ("mip", "90%")):
        code, _, err = _compile(planc, train, budget, "--solver", solver)
        assert code == 0, (solver, err)
        code, out, _ = planc("run", tmp_path / "train.plan.json", "--steps", "2", "--compare", "--json")
        assert (code, json.loads(out)["bitwise_equal"]) == (0, True), solver


def test_zoo_and_doctor(planc: Planc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: family for name, family in families().items() if name in ("resnet18", "resnet50", "gpt2")}
    monkeypatch.setattr("planc.zoo.families", lambda: few)
    code, out, _ = planc("zoo", "list", "--json")
    networks = {network["name"]: network for network in json.loads(out)["networks"]}
    assert (code, networks["resnet50"]["parameters"]) == (0, 25_557_032)
    assert networks["gpt2"]["inputs"] == {"input_ids": [8, 1024], "labels": [8, 1024]}
    assert networks["resnet18"]["operators"] > networks["resnet18"]["layers"] > 3 * 18
    assert planc("zoo", "build", "nothing", "-o", tmp_path / "n.onnx")[0] == 2
    assert "mip" in json.loads(planc("doctor", "--json")[1])["solvers"]


def test_clipping_accumulation_and_averages_of_a_graph(planc: Planc, train: Path, tmp_path: Path) -> None:
    """The options change the graph as in Python, and go wrong by name."""
    step = ["--clip-norm", "0.5", "--clip-value", "0.1", "--accumulate", "2", "--ema", "0.9", "--device", "cpu"]
    forward, made = train.parent / "forward.onnx", tmp_path / "step.onnx"
    assert planc("grad", forward, "--loss", "cross-entropy", "--optimizer", "adam", *step, "-o", made)[0] == 0
    options = StepOptions(clip_norm=0.5, clip_value=0.1, accumulate=2, ema_decay=0.9)
    expected = differentiate(onnx.load(forward), loss="cross-entropy", optimizer=Optimizer("adam"), options=options)
    assert import_model(made).graph.content_hash == import_model(expected).graph.content_hash
    assert import_model(made).graph.content_hash != import_model(train).graph.content_hash
    zoo = ["zoo", "build", "squeezenet", "--batch", "1", "--image", "64"]
    assert planc(*zoo, *step, "-o", tmp_path / "zoo.onnx")[0] == 0
    averages = [v.name for v in onnx.load(tmp_path / "zoo.onnx").graph.input if v.name.endswith(AVERAGE)]
    assert len(averages) > 40
    for wrong in (["--clip-norm", "0"], ["--accumulate", "0"], ["--ema", "1"]):
        code, _, err = planc("grad", forward, "--loss", "cross-entropy", *wrong, "-o", made)
        assert (code, "Traceback" in err) == (2, False), wrong
    code, _, err = planc(*zoo, "--forward", "--accumulate", "2", "-o", tmp_path / "f.onnx")
    assert code == 2
    assert "--forward writes no step" in err


def test_a_packing_that_does_not_fit_is_still_one_json_object(planc: Planc, tmp_path: Path) -> None:
    (tmp_path / "buffers.csv").write_text("id,lower,upper,size\na,0,2,8\nb,1,3,8\n")
    code, out, err = planc("pack", tmp_path / "buffers.csv", "--capacity", 12, "--json")
    packed = json.loads(out)
    assert (code, packed["status"], packed["lower_bound"]) == (4, "infeasible", 16)
    assert "no packing fits 12 bytes" in err


def test_an_unknown_device_is_refused_though_costs_of_another_are_known(planc: Planc, train: Path) -> None:
    options = ("--budget", "100%", "--time-limit", "1", "--json")
    assert json.loads(planc("compile", train, "--device", "T4", *options)[1])["estimated"] is True
    assert planc("compile", train, "--device", "cpu", *options)[0] == 0
    code, _, err = planc("compile", train, "--device", "T5", *options)
    assert (code, "unknown device 'T5'" in err) == (2, True)


def test_unknown_commands_and_options_are_usage_errors(planc: Planc) -> None:
    assert planc("fly")[0] == 2
    assert planc("compile")[0] == 2
    assert planc("compile", "x", "--no-such-option")[0] == 2


def test_mixed_precision_keeps_float32_masters(planc: Planc, train: Path, tmp_path: Path) -> None:
    forward, half = train.parent / "forward.onnx", tmp_path / "half.onnx"
    arguments = ("--loss", "cross-entropy", "--precision", "float16", "--loss-scale", "128", "-o", half)
    assert planc("grad", forward, *arguments)[0] == 0
    graph = import_model(half).graph
    assert {graph.tensors[i].dtype for i in graph.state} == {"float32"}
    assert "float16" in {tensor.dtype for tensor in graph.tensors}
    assert planc("grad", forward, "--loss", "cross-entropy", "--precision", "float8", "-o", half)[0] == 2


def test_half_precision_is_widened_for_a_device_without_kernels(planc: Planc, tmp_path: Path) -> None:
    half, wide = tmp_path / "half.onnx", tmp_path / "wide.onnx"
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Exp", ["x"], ["y"]), onnx.helper.make_node("Neg", ["y"], ["z"])]
    x, z = (info(name, onnx.TensorProto.FLOAT16, [4]) for name in "xz")
    graph = onnx.helper.make_graph(nodes, "step", [x], [z])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    annotations.write_model(model, {annotations.STATE: json.dumps({"x": "z"})})
    onnx.save(model, half)
    code, _, err = planc("compile", half, "--device", "cpu")
    assert code == 3
    assert "planc widen" in err
    assert planc("widen", half, "-o", wide, "--device", "cpu")[0] == 0
    kinds = [node.op_type for node in onnx.load(wide).graph.node]
    assert kinds == ["Cast", "Exp", "Cast", "Cast", "Neg", "Cast"]
