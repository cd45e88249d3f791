"""`planc compile`: training graph → plan."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from planc.cli.console import err, infeasible_as_json, out, print_json, progress
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
from planc.compiler.job import CompileJob
from planc.compiler.knee import compile_within
from planc.compiler.options import Compilation, CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.store import read_costs
from planc.devices import find_device
from planc.errors import UsageError
from planc.graph.graph import Graph
from planc.importer.load import ModelFile, read_model
from planc.importer.save import write_model
from planc.plan.files import write_plan
from planc.plan.plan import Plan
from planc.report.curve import print_curve
from planc.report.summary import summarize, summary_json
from planc.report.text import print_summary
from planc.report.view import view_of
from planc.schedule.solver import Progress
from planc.training import differentiate
from planc.units import format_ns


def compile_command(
    model: Path,
    budget: Annotated[str | None, typer.Option(help="8GiB, 512MB, 60% of the liveness peak, min, max or auto.")] = None,
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
    fuse: Fuse = True,
    host_tier: HostTier = None,
    gap: Gap = None,
    deterministic: Deterministic = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The plan; by default beside the model.")
    ] = None,
    json: Json = False,
) -> None:
    """Compile MODEL, the graph of one training step, into a memory plan within the budget."""
    target = output or (model if loss is None else _training_path(model)).with_suffix(".plan.json")
    made = None if loss is None else _training_path(model)
    require_outputs((model, costs), {"-o": target, "the training graph": made})
    table = None if costs is None else read_costs(costs)
    file = read_model(model, whole=loss is not None)
    if loss is not None:
        forms = forms_for(device if table is None else table.device.kind)
        file = _differentiated(file, model, loss, optimizer, forms, dim or [])
    elif not file.proto.metadata_props:
        raise UsageError(
            f"{model} is a forward model: it updates no state. Differentiate it first, for example\n"
            f"  planc grad {model} --loss cross-entropy --optimizer momentum -o {_training_path(model)}\n"
            f"or in one go with  planc compile {model} --loss cross-entropy"
        )
    chosen = CompileOptions(budget, solver, time_limit, seed, host_memory, gap=gap_of(gap), deterministic=deterministic)
    with progress("profiling") as update:
        job = CompileRequest(file, device, table, fuse, update, host_tier).resolve()
    with infeasible_as_json(json):
        result = _solved(job, chosen)
    write_plan(result.plan, target)
    if json:
        print_json(compile_json(result, job.imported.graph, target))
    else:
        print_summary(out(), result.plan, job.imported.graph)
        err().print(f"wrote {target}")
        _print_next(result.plan, target)


def _print_next(plan: Plan, target: Path) -> None:
    """What to try now; of a budget that gives nothing up, that it plans nothing."""
    memory = plan.memory
    if (
        not plan.copies
        and len(plan.runs) == plan.model.layers
        and memory.minimum_budget_bytes < memory.budget_bytes // 2
    ):
        err().print("nothing had to be given up within this budget: try --budget 50%, or auto")
    runs_here = find_device(plan.costs.kind) is not None and not plan.costs.estimated
    err().print(
        f"next: planc run {target} --compare" if runs_here else f"next: planc inspect {target} --html plan.html"
    )


def _training_path(model: Path) -> Path:
    return model.with_suffix(".train.onnx")


def _differentiated(
    file: ModelFile, path: Path, loss: str, optimizer: str, forms: str, dim: list[str]
) -> ModelFile:  # fmt: skip
    settings = optimizer_of(optimizer, None)
    trained = differentiate(file.proto, loss=loss, optimizer=settings, device=forms, dims=dimensions(dim))
    write_model(trained, _training_path(path))
    return ModelFile(trained, _training_path(path))


def _solved(job: CompileJob, options: CompileOptions) -> Compilation:
    with progress("solving") as update:
        seconds = max(1, round(options.time_limit_s))

        def show(state: Progress) -> None:
            known = [f"plan {format_ns(state.incumbent_ns)}"] if state.incumbent_ns else []
            known += [f"bound {format_ns(state.bound_ns)}"] if state.bound_ns else []
            update(min(seconds, round(state.elapsed_s)), seconds, " ".join([*known, state.message]))

        return compile_within(job, replace(options, on_progress=show), lambda *curve: print_curve(err(), *curve))


def compile_json(result: Compilation, graph: Graph, path: Path) -> dict[str, object]:
    """The JSON result of a compilation: the plan's summary, where it lies, and how often packing was repaired."""
    view = view_of(result.plan, graph)
    return {"plan": str(path), "repairs": result.repairs, **summary_json(view, summarize(view))}
