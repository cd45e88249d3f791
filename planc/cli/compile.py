"""`planc compile`: training graph → plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, infeasible_as_json, out, parts, print_json, progress
from planc.cli.interrupts import GracefulStop, Interrupted, interrupts_tell
from planc.cli.known_models import remember_model
from planc.cli.options import (
    Costs,
    Deterministic,
    Device,
    Fuse,
    Gap,
    HostTier,
    Json,
    Seed,
    TimeLimit,
    dimensions,
    forms_for,
    gap_of,
    optimizer_of,
)
from planc.cli.outputs import require_outputs
from planc.cli.ranks import MARK, every_rank, of_rank, require_alike, run_by_ranks
from planc.cli.solving import solve_each
from planc.errors import UsageError

if TYPE_CHECKING:
    from planc.compiler.options import Compilation
    from planc.costs.table import CostTable
    from planc.graph.graph import Graph
    from planc.importer.load import ModelFile
    from planc.plan.plan import Plan


def compile_command(
    model: Path,
    budget: Annotated[
        str | None, typer.Option(help="8GiB, 60% of the liveness peak, process:200MiB, min, max, auto.")
    ] = None,
    device: Device = "auto",
    costs: Costs = None,
    solver: Annotated[str, typer.Option(help="The policy; `planc doctor` lists them.")] = "mip",
    time_limit: TimeLimit = 60.0,
    seed: Seed = 0,
    host_memory: Annotated[
        str | None, typer.Option(help="Most that swapped values may take on the host, like --budget; else no limit.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Differentiate a forward model first, with this loss.")] = None,
    optimizer: Annotated[str, typer.Option(help="Optimizer of a forward model.")] = "sgd",
    dim: Annotated[list[str] | None, typer.Option(help="Bind a symbolic dimension of a forward model.")] = None,
    world_size: Annotated[
        int | None, typer.Option(help="Ranks that run the step at once; a training graph says its own.", min=1)
    ] = None,
    fuse: Fuse = True,
    host_tier: HostTier = None,
    gap: Gap = None,
    deterministic: Deterministic = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The plan; by default beside the model.")
    ] = None,
    json: Json = False,
) -> None:
    """Compile MODEL, the graph of one training step, into a memory plan within the budget. {rank} in its name stands for
    every rank of a step with divided state (--shard): each gets a plan of its own, or none does."""
    from planc.compiler.options import CompileOptions
    from planc.compiler.request import CompileRequest
    from planc.plan.plan import save_all
    from planc.profiling.once import Measured

    target = output or (model if loss is None else _training_path(model)).with_suffix(".plan.json")
    require_alike(model, {"-o": target, "--costs": costs})
    of_ranks = MARK in model.name
    sources = _of_ranks(model, target, costs, loss) if of_ranks else [_of_one(model, target, costs, loss)]
    if loss is not None:
        sources = [_differentiated(sources[0], loss, optimizer, device, dim or [], world_size or 1)]
    titles = [source.model.name if of_ranks else "" for source in sources]
    chosen = CompileOptions(
        budget, solver, time_limit, seed, host_memory, gap=gap_of(gap), deterministic=deterministic, what_if=True
    )
    with interrupts_tell("no plan was written"):
        with progress("profiling") as update:
            measured = Measured()
            jobs = [
                CompileRequest(each.file, device, each.table, fuse, part, host_tier, world_size, measured).resolve()
                for each, part in zip(sources, parts(update, titles), strict=True)
            ]
        with GracefulStop() as stop, infeasible_as_json(json):
            results = solve_each(jobs, titles, chosen, stop)
        save_all({source.target: result.plan for source, result in zip(sources, results, strict=True)})
    for source, result in zip(sources, results, strict=True):
        remember_model(source.model, source.target, result.plan.model.hash)
    if json:
        made = zip(results, jobs, sources, strict=True)
        found = [compile_json(result, job.imported.graph, source.target) for result, job, source in made]
        print_json((_of_all(found, results) if of_ranks else found[0]) | {"interrupted": stop.asked})
    else:
        _print_plans([result.plan for result in results], jobs[0].imported.graph, target)
    if stop.asked:
        raise Interrupted(f"the best plan so far was kept in {target}")


@dataclass(frozen=True)
class _Source:
    """What is compiled, one rank's where each has its own: model, costs that were given, and where the plan goes."""

    model: Path
    file: "ModelFile"
    table: "CostTable | None"
    target: Path


def _of_one(model: Path, target: Path, costs: Path | None, loss: str | None) -> _Source:
    """The one step, read whole where it is to be differentiated."""
    from planc.costs.store import read_costs
    from planc.importer.load import read_model

    made = None if loss is None else _training_path(model)
    require_outputs((model, costs), {"-o": target, "the training graph": made})
    table = None if costs is None else read_costs(costs)
    file = read_model(model, whole=loss is not None)
    if loss is None and not file.proto.metadata_props:
        raise UsageError(
            f"{model} is a forward model: it updates no state. Differentiate it first, for example\n"
            f"  planc grad {model} --loss cross-entropy --optimizer momentum -o {_training_path(model)}\n"
            f"or in one go with  planc compile {model} --loss cross-entropy"
        )
    return _Source(model, file, table, target)


def _of_ranks(model: Path, target: Path, costs: Path | None, loss: str | None) -> list[_Source]:
    """The steps of all ranks, in order."""
    from planc.costs.store import read_costs

    if loss is not None:
        raise UsageError(
            f"--loss differentiates a forward model, and {model} is a training graph for every rank: make these with\n"
            f"  planc grad FORWARD --loss {loss} --world-size N --shard -o {model}"
        )
    files = every_rank(model)
    models, targets = ([of_rank(path, rank) for rank in range(len(files))] for path in (model, target))
    tables = [None if costs is None else of_rank(costs, rank) for rank in range(len(files))]
    for own in targets:
        require_outputs([*models, *tables], {"-o": own})
    known = [None if table is None else read_costs(table) for table in tables]
    return [_Source(*each) for each in zip(models, files, known, targets, strict=True)]


def _print_plans(plans: Sequence["Plan"], graph: "Graph", target: Path) -> None:
    """The one plan, or a row for each rank's, and what to do next."""
    from planc.report.ranks import print_ranks
    from planc.report.text import print_summary

    if MARK in target.name:
        print_ranks(out(), plans)
    else:
        print_summary(out(), plans[0], graph)
    err().print(f"wrote {target}", soft_wrap=True)
    _print_next(plans, target)


def _of_all(found: Sequence[dict[str, object]], results: Sequence["Compilation"]) -> dict[str, object]:
    """The JSON result for every rank: that of each, and the predicted step of all."""
    from planc.report.ranks import step_of_all

    return {"ranks": found, "predicted_step_ns": step_of_all([result.plan for result in results])}


def _print_next(plans: Sequence["Plan"], target: Path) -> None:
    """What to try now; of a budget that gives nothing up, that it plans nothing."""
    from planc.devices import find_device

    plan = plans[0]
    if all(map(_gives_nothing_up, plans)):
        err().print("nothing had to be given up within this budget: try --budget 50%, or auto")
    if find_device(plan.costs.kind) is None or plan.costs.estimated:
        command = f"planc inspect {of_rank(target, 0)} --html plan.html"
    elif plan.ranks > 1:
        command = run_by_ranks(target, plan.ranks)
    else:
        command = f"planc run {target} --compare"
    err().print(f"next: {command}", soft_wrap=True)


def _gives_nothing_up(plan: "Plan") -> bool:
    """Whether a budget much smaller than the plan's could make a difference, and its own makes none."""
    memory = plan.memory
    everything = not plan.copies and len(plan.runs) == len(plan.layers)
    return everything and memory.minimum_budget_bytes < memory.budget_bytes // 2


def _training_path(model: Path) -> Path:
    return model.with_suffix(".train.onnx")


def _differentiated(source: _Source, loss: str, optimizer: str, device: str, dim: list[str], ranks: int) -> _Source:
    """The training graph of a forward model, written beside it."""
    from planc.importer.load import ModelFile
    from planc.importer.save import write_model
    from planc.training import differentiate  # few compilations differentiate
    from planc.training.step_options import StepOptions

    path = _training_path(source.model)
    trained = differentiate(
        source.file.proto,
        loss=loss,
        optimizer=optimizer_of(optimizer, None),
        device=forms_for(device if source.table is None else source.table.device.kind),
        dims=dimensions(dim),
        options=StepOptions(ranks=ranks),
    )
    write_model(trained, path)
    return replace(source, model=path, file=ModelFile(trained, path))


def compile_json(result: "Compilation", graph: "Graph", path: Path) -> dict[str, object]:
    """The JSON result of a compilation: the plan's summary, where it lies, and how often packing was repaired."""
    from planc.report.summary import summarize, summary_json
    from planc.report.view import view_of

    view = view_of(result.plan, graph)
    return {"plan": str(path), "repairs": result.repairs, **summary_json(view, summarize(view))}
