"""`planc run`: execute a plan and measure it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planc.cli.console import err, out, print_json, progress
from planc.cli.interrupts import interrupts_tell
from planc.cli.options import HostTier, Json, Model, beside
from planc.cli.outputs import require_outputs
from planc.cli.ranks import of_this_rank, run_by_ranks
from planc.errors import UsageError, VerificationError
from planc.units import NS_PER_MS, format_bytes

if TYPE_CHECKING:
    from planc.plan.plan import Plan
    from planc.runtime.measure import Measurement
    from planc.runtime.step import TrainingStep


def run(
    plan: Path,
    model: Model = None,
    steps: Annotated[int, typer.Option(help="Training steps on synthetic batches.", min=1)] = 10,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the unplanned graph too and compare every bit.")
    ] = False,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="Be one of the ranks that torchrun started; the first prints the result.")
    ] = False,
    host_tier: HostTier = None,
    seed: Annotated[int, typer.Option(help="Seed of the batches.")] = 0,
    save_state: Annotated[Path | None, typer.Option(help="Write the trained state here (safetensors).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report page with these measurements.")] = None,
    json: Json = False,
) -> None:
    """Execute PLAN for some training steps; exit code 6 when --compare finds a differing bit. {rank} in its name is the
    rank of the process."""
    from planc.importer.import_model import import_for
    from planc.plan.plan import Plan
    from planc.report.page import write_page
    from planc.report.text import print_measurement
    from planc.runtime.measure import measure
    from planc.runtime.step import load

    plan, model = of_this_rank(plan), None if model is None else of_this_rank(model)
    loaded = Plan.load(plan)
    source = beside(plan, loaded.model.file, loaded.model.hash, model)
    require_outputs((plan, source), {"--save-state": save_state, "--html": html})
    first = _is_first(plan, loaded, ranks, compare)
    before = _resident_before(loaded)
    imported = import_for(source, loaded.model.hash)
    kept = interrupts_tell("the state was not saved")
    with kept, progress("training") as update, load(loaded, imported, host_tier=host_tier, measure=True) as step:
        _tell_of_memory(step)
        result = measure(step, steps, seed, compare, update, before)
        if save_state is not None:
            step.save_state(save_state)
    if not first:
        return
    data = run_json(loaded, result)
    if html is not None:
        write_page(html, loaded, imported.graph, data)
    if json:
        print_json(data)
    else:
        print_measurement(out(), loaded, data)
    if result.bitwise_equal is False:
        where = f", first in {result.first_differing}" if result.first_differing else ""
        raise VerificationError(f"{plan}: {result.differing_values} values differ from the unplanned run{where}")


def _is_first(path: Path, plan: "Plan", ranks: bool, compare: bool) -> bool:
    """Whether this process prints the result. Raises UsageError where plan and options do not fit each other."""
    from planc.runtime.ranks.together import group_for

    if plan.ranks == 1 and ranks:
        raise UsageError(f"{path} is for one rank: compile a step built with --world-size, or run it without --ranks")
    if plan.ranks > 1 and not ranks:
        raise UsageError(f"{path} is for {plan.ranks} ranks: {run_by_ranks(path, plan.ranks)}")
    if plan.ranks > 1 and compare:
        raise UsageError("--compare runs the graph in one process, which has no other ranks' gradients: leave it out")
    group = group_for(plan, str(path))
    return group is None or group.rank == 0


def _resident_before(plan: "Plan") -> int | None:
    """What the process holds before the model is read; None for a card, whose memory is another."""
    from planc.devices import find_device
    from planc.runtime.ort.sessions import prepare_threads
    from planc.runtime.resident import reset_peak, resident_bytes

    found = find_device(plan.costs.kind)
    if found is None or not found[0].in_process:
        return None
    prepare_threads()
    reset_peak()
    return resident_bytes()


def _tell_of_memory(step: "TrainingStep") -> None:
    """Say where swapped bytes lie in the memory that the plan is to save."""
    host, memory = step.plan.memory.host_bytes, step.plan.memory
    kept = getattr(step.device, "memory_bytes", 0) - memory.slab_bytes - memory.scratch_bytes
    if host and kept >= host:
        err().print(
            f"swapped bytes stay in this machine's memory, {format_bytes(host)} beside the plan: this models a card; "
            "--host-tier file:FOLDER on a disk makes memory free",
            soft_wrap=True,
        )


def run_json(plan: "Plan", result: "Measurement") -> dict[str, object]:
    """The JSON result of a run."""
    data: dict[str, object] = {
        "steps": result.steps,
        "step_ms": result.step_ns / NS_PER_MS,
        "peak_slab_bytes": result.peak_slab_bytes,
        "peak_scratch_bytes": result.peak_scratch_bytes,
        "peak_slab_scratch_bytes": result.peak_slab_scratch_bytes,
        "budget_bytes": plan.memory.budget_bytes,
        "predicted_step_ns": plan.prediction.step_ns,
        "losses": list(result.losses),
    }
    sizes = {
        "resident_growth_bytes": result.resident_growth_bytes,
        "predicted_growth_bytes": result.predicted_growth_bytes,
        "unplanned_growth_bytes": result.unplanned_growth_bytes,
    }
    data |= {name: size for name, size in sizes.items() if size is not None}
    if result.unplanned_step_ns is not None:
        data |= {
            "unplanned_step_ms": result.unplanned_step_ns / NS_PER_MS,
            "bitwise_equal": result.bitwise_equal,
            "differing_values": result.differing_values,
            **({"first_differing": result.first_differing} if result.first_differing else {}),
        }
    return data
