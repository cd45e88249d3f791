"""`planc compile`: training graph → plan."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planc.cli.console import err, infeasible_as_json, out, print_json, progress
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
from planc.errors import InfeasibleBudgetError, SolverTimeoutError, UsageError
from planc.units import format_ns

if TYPE_CHECKING:
    from planc.compiler.job import CompileJob
    from planc.compiler.options import Compilation, CompileOptions
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
    """Compile MODEL, the graph of one training step, into a memory plan within the budget."""
    from planc.compiler.options import CompileOptions
    from planc.compiler.request import CompileRequest
    from planc.costs.store import read_costs
    from planc.importer.load import read_model
    from planc.report.text import print_summary

    target = output or (model if loss is None else _training_path(model)).with_suffix(".plan.json")
    made = None if loss is None else _training_path(model)
    require_outputs((model, costs), {"-o": target, "the training graph": made})
    table = None if costs is None else read_costs(costs)
    file = read_model(model, whole=loss is not None)
    if loss is not None:
        forms = forms_for(device if table is None else table.device.kind)
        file = _differentiated(file, model, loss, optimizer, forms, dim or [], world_size or 1)
    elif not file.proto.metadata_props:
        raise UsageError(
            f"{model} is a forward model: it updates no state. Differentiate it first, for example\n"
            f"  planc grad {model} --loss cross-entropy --optimizer momentum -o {_training_path(model)}\n"
            f"or in one go with  planc compile {model} --loss cross-entropy"
        )
    chosen = CompileOptions(
        budget, solver, time_limit, seed, host_memory, gap=gap_of(gap), deterministic=deterministic, what_if=True
    )
    with interrupts_tell("no plan was written"):
        with progress("profiling") as update:
            job = CompileRequest(file, device, table, fuse, update, host_tier, world_size).resolve()
        with GracefulStop() as stop, infeasible_as_json(json):
            result = _solved(job, chosen, stop)
        result.plan.save(target)
    remember_model(model if made is None else made, target, result.plan.model.hash)
    if json:
        print_json(compile_json(result, job.imported.graph, target) | {"interrupted": stop.asked})
    else:
        print_summary(out(), result.plan, job.imported.graph)
        err().print(f"wrote {target}", soft_wrap=True)
        _print_next(result.plan, target)
    if stop.asked:
        raise Interrupted(f"the best plan so far was kept in {target}")


def _print_next(plan: "Plan", target: Path) -> None:
    """What to try now; of a budget that gives nothing up, that it plans nothing."""
    from planc.devices import find_device

    memory = plan.memory
    if (
        not plan.copies
        and len(plan.runs) == len(plan.layers)
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
    file: "ModelFile", path: Path, loss: str, optimizer: str, forms: str, dim: list[str], ranks: int
) -> "ModelFile":  # fmt: skip
    from planc.importer.load import ModelFile
    from planc.importer.save import write_model
    from planc.training import differentiate  # few compilations differentiate
    from planc.training.step_options import StepOptions

    settings = optimizer_of(optimizer, None)
    options = StepOptions(ranks=ranks)
    trained = differentiate(
        file.proto, loss=loss, optimizer=settings, device=forms, dims=dimensions(dim), options=options
    )
    write_model(trained, _training_path(path))
    return ModelFile(trained, _training_path(path))


def _solved(job: "CompileJob", options: "CompileOptions", stop: GracefulStop) -> "Compilation":
    """Compile; from when the search of the plan that is wanted has begun, `stop` ends it with what it has."""
    from planc.compiler.knee import AUTO
    from planc.compiler.within import compile_within
    from planc.report.curve import print_curve
    from planc.schedule.solver import Progress

    searched = options.budget != AUTO and not options.deterministic

    def on_curve(*curve: Any) -> None:
        nonlocal searched
        print_curve(err(), *curve)
        searched = True

    with progress("solving") as update:
        seconds = max(1, round(options.time_limit_s))

        def show(state: Progress) -> None:
            stop.armed = searched
            known = [f"plan {format_ns(state.incumbent_ns)}"] if state.incumbent_ns else []
            known += [f"bound {format_ns(state.bound_ns)}"] if state.bound_ns else []
            update(min(seconds, round(state.elapsed_s)), seconds, " ".join([*known, state.message]))

        try:
            return compile_within(job, replace(options, on_progress=show), on_curve)
        except (SolverTimeoutError, InfeasibleBudgetError):
            if stop.asked:
                raise Interrupted("no plan that fits had been found, and none was written") from None
            raise
        finally:
            stop.armed = False


def compile_json(result: "Compilation", graph: "Graph", path: Path) -> dict[str, object]:
    """The JSON result of a compilation: the plan's summary, where it lies, and how often packing was repaired."""
    from planc.report.summary import summarize, summary_json
    from planc.report.view import view_of

    view = view_of(result.plan, graph)
    return {"plan": str(path), "repairs": result.repairs, **summary_json(view, summarize(view))}
