"""What commands say of steps for several ranks."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.costs import made_up_costs
from support.counting_meter import CountingMeter
from support.networks import forward_cnn

from planc.cli.ranks import of_rank, of_this_rank
from planc.cli.run import _is_first
from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.catalogue import estimate_exchange
from planc.costs.store import write_costs
from planc.costs.table import ExchangeLink
from planc.enums import ExchangeKind
from planc.errors import DeviceError, UsageError
from planc.importer.import_model import import_model
from planc.importer.submodel import sub_model
from planc.plan.plan import EXCHANGE_FORMAT, FORMAT, Plan
from planc.planning.build import build_problem
from planc.profiling import cache, profile
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions
from planc.units import format_bytes, format_ns

PATH = Path("step.plan.json")
Planc = Callable[..., tuple[int, str, str]]


def model(ranks: int) -> onnx.ModelProto:
    options = StepOptions(ranks=ranks)
    return differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("sgd"), options=options)


def plan(ranks: int) -> Plan:
    imported = import_model(model(ranks))
    return compile_model(imported, made_up_costs(imported.graph), CompileOptions(time_limit_s=0.3)).plan


def test_a_plan_says_how_many_ranks_it_is_for() -> None:
    one, two = plan(1), plan(2)
    assert (one.ranks, one.exchanges, one.format) == (1, (), FORMAT)
    assert (two.ranks, two.format) == (2, EXCHANGE_FORMAT)
    assert sum(exchange.bytes for exchange in two.exchanges) > 0


@pytest.mark.parametrize(
    ("ranks", "asked", "compare", "message"),
    [
        (1, True, False, "is for one rank"),
        (2, False, False, "torchrun --nproc-per-node 2"),
        (2, True, True, "--compare runs the graph in one process"),
        (2, True, False, "this process is alone"),
    ],
)
def test_run_refuses_what_does_not_fit(
    ranks: int, asked: bool, compare: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=message):
        _is_first(PATH, plan(ranks), asked, compare)


def test_compile_refuses_a_step_of_another_number_of_ranks() -> None:
    built = model(2)
    costs = made_up_costs(import_model(built).graph)
    assert CompileRequest(built, costs=costs, world_size=2).resolve().imported.graph.ranks == 2
    with pytest.raises(UsageError, match=r"is the step of 2 rank\(s\), not of 4"):
        CompileRequest(built, costs=costs, world_size=4).resolve()


def test_costs_without_a_way_to_the_other_ranks_are_refused() -> None:
    import msgspec

    built = model(2)
    costs = msgspec.structs.replace(made_up_costs(import_model(built).graph), exchange=None)
    with pytest.raises(DeviceError, match="among 2 ranks, and the cost table knows none"):
        CompileRequest(built, costs=costs).resolve()


def test_the_catalogue_predicts_a_step_of_several_cards() -> None:
    """In a ring, 2 (N - 1) / N of the bytes leave each card."""
    two, eight = (estimate_exchange("h200", ranks).exchange_ns(64 << 20) for ranks in (2, 8))
    assert two < eight < 2 * two
    job = CompileRequest(model(2), device="h200").resolve()
    made = job.compile(CompileOptions(time_limit_s=0.3)).plan
    assert len(made.prediction.exchanges) == len(made.exchanges) > 0
    assert made.prediction.step_ns == made.prediction.unconstrained_step_ns  # it gives nothing up
    assert {point.step_ns for point in made.curve} <= {made.prediction.step_ns}
    assert made.prediction.step_ns > CompileRequest(model(1), device="h200").resolve().usual.problem.base_duration_ns


def test_shard_writes_a_graph_for_every_rank(tmp_path: Path, planc: Planc) -> None:
    target = tmp_path / "step.{rank}.onnx"
    code, printed, message = planc("zoo", "build", "mlp", "--world-size", "2", "--shard", "-o", str(target), "--json")
    assert code == 0, message
    graphs = [import_model(tmp_path / f"step.{rank}.onnx").graph for rank in range(2)]
    assert [graph.shards.rank for graph in graphs if graph.shards] == [0, 1]
    found = json.loads(printed)["ranks"]
    assert [(each["model"], each["states"]) for each in found] == [
        (str(tmp_path / f"step.{rank}.onnx"), len(graph.state)) for rank, graph in enumerate(graphs)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--world-size", "2", "--shard", "-o", "step.onnx"),
            "--shard makes a graph for every rank: call it step.{rank}",
        ),
        (("--world-size", "2", "-o", "step.{rank}.onnx"), "{rank} is for --shard"),
        (("--shard", "-o", "step.{rank}.onnx"), "divided among several ranks"),
        (("--world-size", "2", "--shard", "--forward", "-o", "step.{rank}.onnx"), "--forward writes no step"),
    ],
)
def test_shard_asks_for_ranks_and_their_files(arguments: tuple[str, ...], message: str, planc: Planc) -> None:
    code, _, told = planc("zoo", "build", "mlp", *arguments)
    assert code == 2
    assert message in " ".join(told.split())


@pytest.fixture
def sharded(tmp_path: Path, planc: Planc) -> Path:
    """The graphs of two ranks."""
    path = tmp_path / "train.{rank}.onnx"
    assert planc("zoo", "build", "mlp", "--world-size", "2", "--shard", "-o", path)[0] == 0
    return path


def with_costs(model: Path, *scratch: int) -> Path:
    """Cost tables of every rank, whose layers take that much scratch."""
    for rank, size in enumerate(scratch):
        graph = import_model(of_rank(model, rank)).graph
        write_costs(made_up_costs(graph, size), model.parent / f"costs.{rank}.json")
    return model.parent / "costs.{rank}.json"


def test_compile_makes_the_plan_of_every_rank(sharded: Path, planc: Planc) -> None:
    code, printed, message = planc("compile", sharded, "--device", "h200", "--time-limit", "0.3", "--json")
    assert code == 0, message
    plans = [Plan.load(sharded.parent / f"train.{rank}.plan.json") for rank in range(2)]
    assert [(plan.rank, plan.ranks) for plan in plans] == [(0, 2), (1, 2)]
    assert plans[0].exchange_hash == plans[1].exchange_hash
    told = json.loads(printed)
    assert [each["slab_bytes"] for each in told["ranks"]] == [plan.memory.slab_bytes for plan in plans]
    steps = [plan.prediction.step_ns for plan in plans]
    assert [each["predicted_step_ns"] for each in told["ranks"]] == steps
    assert (told["predicted_step_ns"], told["interrupted"]) == (max(steps), False)


def test_the_summary_names_each_rank_and_the_step_of_all(sharded: Path, planc: Planc) -> None:
    target = sharded.parent / "own.{rank}.json"
    costs = with_costs(sharded, 1 << 20, 2 << 20)
    code, printed, message = planc("compile", sharded, "--costs", costs, "--time-limit", "0.3", "-o", target)
    assert code == 0, message
    plans = [Plan.load(of_rank(target, rank)) for rank in range(2)]
    slower = max(plans, key=lambda plan: plan.prediction.step_ns)
    assert f"{format_ns(slower.prediction.step_ns)} predicted, that of the slowest: rank {slower.rank}" in printed
    rows = [line.split() for line in printed.splitlines()]
    for rank, each in enumerate(plans):
        row = next(row for row in rows if row[:1] == [str(rank)])
        sizes = [*format_bytes(each.memory.budget_bytes).split(), *format_bytes(each.memory.slab_bytes).split()]
        assert row[1:7] == [*sizes, *format_ns(each.prediction.step_ns).split()]
    assert f"next: torchrun --nproc-per-node 2 --no-python planc run {target} --ranks" in message


def test_nothing_is_written_where_one_rank_has_no_plan(sharded: Path, planc: Planc) -> None:
    costs, old = with_costs(sharded, 0, 64 << 20), sharded.parent / "train.0.plan.json"
    old.write_text("old")
    options = ("--costs", costs, "--budget", "48MiB", "--time-limit", "0.3", "--json")
    code, printed, message = planc("compile", sharded, *options)
    assert code == 4
    assert message.startswith("planc: train.1.onnx: a budget of ")
    assert json.loads(printed)["message"].startswith("train.1.onnx: ")
    assert old.read_text() == "old"
    assert not (sharded.parent / "train.1.plan.json").exists()


def test_what_layers_of_ranks_have_in_common_is_measured_once(
    sharded: Path, planc: Planc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meter, exchanges = CountingMeter(0), list[int]()

    def exchange(ranks: int, _: object) -> ExchangeLink:
        exchanges.append(ranks)
        return estimate_exchange("h200", ranks)

    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(profile, "open_meter", lambda _: meter)
    monkeypatch.setattr(cache, "measure_exchange", exchange)
    code, _, message = planc("compile", sharded, "--device", "cpu", "--budget", "200%", "--time-limit", "0.3")
    assert code == 0, message
    graphs = [import_model(of_rank(sharded, rank)) for rank in range(2)]
    models = [
        {
            sub_model(each, range(layer.start, layer.stop)).signature
            for index, layer in enumerate(each.graph.layers)
            if not each.graph.is_exchange(index)
        }
        for each in graphs
    ]
    assert meter.layers == len(models[0] | models[1]) < len(models[0]) + len(models[1])
    assert (meter.links, exchanges) == (1, [2])


def test_an_interrupt_keeps_the_plans_of_all_ranks(sharded: Path, planc: Planc) -> None:
    costs = with_costs(sharded, 0, 0)
    options = ("--costs", costs, "--budget", "200%", "--time-limit", "3600", "--solver", "support.interrupting:Patient")
    code, _, message = planc("compile", sharded, *options)
    assert code == 130, message
    assert message.endswith(f"the best plan so far was kept in {sharded.with_suffix('.plan.json')}\n")
    assert [Plan.load(sharded.parent / f"train.{rank}.plan.json").rank for rank in range(2)] == [0, 1]


def _without(model: Path, **_: object) -> None:
    of_rank(model, 1).unlink()


def _of_another_rank(model: Path, **_: object) -> None:
    of_rank(model, 1).write_bytes(of_rank(model, 0).read_bytes())


def _built(model: Path, planc: Planc, ranks: int, *options: str) -> None:
    """Replace the graph of rank 1 by that of another step."""
    other = model.parent / "other.{rank}.onnx"
    assert planc("zoo", "build", "mlp", "--world-size", str(ranks), "--shard", "-o", other, *options)[0] == 0
    of_rank(other, 1).replace(of_rank(model, 1))


def _of_more_ranks(model: Path, planc: Planc) -> None:
    _built(model, planc, 3)


def _of_another_step(model: Path, planc: Planc) -> None:
    _built(model, planc, 2, "--optimizer", "adamw")


def _the_same_on_all(model: Path, planc: Planc) -> None:
    assert planc("zoo", "build", "mlp", "--world-size", "2", "-o", of_rank(model, 0))[0] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without, "train.0.onnx is of 2 ranks, and there is no {}/train.1.onnx"),
        (_of_another_rank, "train.1.onnx is the graph of rank 0, not of 1"),
        (_of_more_ranks, "train.1.onnx is of 3 ranks, {}/train.0.onnx of 2"),
        (_of_another_step, "train.1.onnx is of another step than {}/train.0.onnx"),
        (_the_same_on_all, "train.0.onnx is not the graph of one rank: only --shard makes"),
    ],
)
def test_graphs_that_are_not_of_one_step_are_refused(
    sharded: Path, planc: Planc, change: Callable[..., None], told: str
) -> None:
    change(sharded, planc=planc)
    code, _, message = planc("compile", sharded, "--device", "h200")
    assert code == 3
    assert message.startswith(f"planc: {sharded.parent}/{told.format(sharded.parent)}")
    assert not list(sharded.parent.glob("*.plan.json"))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("train.{rank}.onnx", ("-o", "plan.json"), "-o plan.json: train.{rank}.onnx is a graph for every rank"),
        ("train.{rank}.onnx", ("--costs", "costs.json"), "--costs costs.json: train.{rank}.onnx is a graph for every"),
        ("train.{rank}.onnx", ("--loss", "mse"), "--loss differentiates a forward model"),
        (
            "train.onnx",
            ("-o", "plan.{rank}.json"),
            "-o plan.{rank}.json: {rank} is for a model with {rank} in its name",
        ),
    ],
)
def test_compile_asks_for_a_file_of_every_rank(name: str, options: tuple[str, ...], told: str, planc: Planc) -> None:
    code, _, message = planc("compile", name, *options)
    assert code == 2
    assert message.startswith(f"planc: {told}")


def test_a_file_for_each_rank_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="is a file for each rank, this process is alone"):
        of_this_rank(Path("step.{rank}.plan.json"))
    assert of_this_rank(PATH) == PATH
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert of_this_rank(Path("a/step.{rank}.plan.json")) == Path("a/step.1.plan.json")


def test_what_goes_to_one_rank_takes_the_time_of_its_busiest_link() -> None:
    """Two ranks: a sum for all brings all bytes over each link, a sum for one those of the other root alone."""
    imported = import_model(differentiate(
        forward_cnn(), loss="cross-entropy", optimizer=Optimizer("sgd"), options=StepOptions(ranks=2, sharded=True)
    ))  # fmt: skip
    graph, costs = imported.graph, made_up_costs(imported.graph)
    tasks = build_problem(graph, costs).problem.tasks
    compared = 0
    for index, layer in enumerate(graph.layers):
        kind, roots = graph.exchange(index)
        if not graph.is_exchange(index) or kind is ExchangeKind.ALL_REDUCE:
            continue
        ops = range(layer.start, layer.stop)
        of_root = [
            sum(graph.tensors[graph.ops[op].inputs[0]].nbytes for op, r in zip(ops, roots, strict=True) if r == root)
            for root in range(2)
        ]
        assert tasks[index].exchange_ns == costs.exchange_ns(max(of_root), 2)
        compared += 1
    assert compared == 2
