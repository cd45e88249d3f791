"""Trains a deep ResNet, batch 16, within 12 GB of device memory: built, profiled, planned and run on the card's machine.

    python3 benchmarks/gpu/deep.py OUT DEPTH [SECONDS]

SECONDS is the solver's limit. The driver's count of the card's memory, context included, must stay under 12 GB. A second
plan with much memory must give the same losses.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from processes import MIB, used
from run_plans import replayed

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.store import write_costs
from planc.costs.table import CostTable
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.profiling.profile import profile
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import load
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

LIMIT = 12 * 10**9
BESIDE = 640 << 20
"""The context and the kernels of libraries."""

ROOMY = 64 * 10**9
"""Another limit, for the same losses from another plan."""

STEPS = 4
facts: dict[str, Any] = {}


def stage(name: str, start: float) -> float:
    """Note what the stage took; the time now."""
    facts[f"{name}_s"] = round(time.perf_counter() - start, 1)
    facts["host_peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(name, json.dumps(facts), flush=True)
    return time.perf_counter()


def built(depth: int) -> ImportedModel:
    """The training step of a ResNet with bottlenecks, in SuperNeurons' proportions."""
    forward = build_forward("resnet", ZooOptions(batch=16, depth=depth))
    step_model = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("momentum"), device="cuda")
    return import_model(step_model, fused=True)


def compiled(imported: ImportedModel, table: CostTable, limit: int, seconds: float) -> tuple[Plan, dict[str, Any]]:
    """A plan for a card of so many bytes, and what it says."""
    plan = compile_model(imported, table, CompileOptions(str(limit - BESIDE), time_limit_s=seconds)).plan
    return plan, {
        "predicted_ms": plan.prediction.step_ns / 1e6,
        "base_ms": plan.prediction.unconstrained_step_ns / 1e6,
        "bound_ms": plan.certificate.lower_bound_ns / 1e6,
        "liveness_peak_MiB": plan.memory.liveness_peak_bytes // MIB,
        "slab_MiB": plan.memory.slab_bytes // MIB,
        "pinned_MiB": plan.memory.host_bytes // MIB,
        "copies": len(plan.copies),
        "segments": len(plan.segments),
        "recomputed": len(plan.runs) - plan.model.layers,
    }


def trained(imported: ImportedModel, plan: Plan) -> dict[str, Any]:
    """Losses and times of some steps, launched, then the time of the recorded step, and the driver's count of memory."""
    start = time.perf_counter()
    with load(plan, imported, replay=False) as step:
        found: dict[str, Any] = {"load_s": round(time.perf_counter() - start, 1)}
        losses, times = [], []
        for seed in range(STEPS):
            feeds = synthetic_feeds(imported.graph, seed)
            start = time.perf_counter()
            losses.append(float(next(iter(step(feeds).values()))))
            times.append(round((time.perf_counter() - start) * 1e3, 1))
        found.update(losses=losses, step_ms=times, card_MiB=used() // MIB, sessions=step.device.session_count)
        start = time.perf_counter()
        found |= replayed(step, 0)
        found |= {"record_and_replay_s": round(time.perf_counter() - start, 1), "card_recorded_MiB": used() // MIB}
    return found


def main() -> None:
    """One line a stage; the facts in OUT/deep-DEPTH.json."""
    out, depth = Path(sys.argv[1]), int(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
    now = time.perf_counter()
    imported = built(depth)
    facts.update(depth=depth, layers=len(imported.graph.layers), operators=len(imported.graph.ops))
    now = stage("build", now)
    table = profile(imported, "cuda")
    write_costs(table, out / f"deep-{depth}.costs.json")
    now = stage("profile", now)
    plan, said = compiled(imported, table, LIMIT, seconds)
    facts.update(said)
    now = stage("compile", now)
    facts.update(trained(imported, plan))
    facts["within"] = facts["card_MiB"] * MIB < LIMIT
    now = stage("steps", now)
    roomy, said = compiled(imported, table, ROOMY, seconds / 4)
    facts["roomy"] = said | trained(imported, roomy)
    facts["same_losses"] = facts["roomy"]["losses"] == facts["losses"]
    stage("roomy", now)
    (out / f"deep-{depth}.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
