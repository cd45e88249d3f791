"""What commands say of steps for several ranks."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.costs import made_up_costs
from support.networks import forward_cnn

from planc.cli.ranks import of_this_rank
from planc.cli.run import _is_first
from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.catalogue import estimate_exchange
from planc.enums import ExchangeKind
from planc.errors import DeviceError, UsageError
from planc.importer.import_model import import_model
from planc.plan.plan import EXCHANGE_FORMAT, FORMAT, Plan
from planc.planning.build import build_problem
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions

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
