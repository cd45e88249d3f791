"""Trains a deep ResNet, batch 16, within 12 GB of device memory: built, profiled, planned and run on the card's machine.

    python3 benchmarks/gpu/deep.py OUT DEPTH [SECONDS]

SECONDS is the solver's limit. The driver's count of the card's memory, context included, must stay under 12 GB.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from run_plans import MIB, used

from planc.compiler import CompileOptions, compile_model
from planc.costs.files import write_costs
from planc.costs.profile import profile
from planc.importer.build import import_model
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import load
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

LIMIT = 12 * 10**9
BESIDE = 640 << 20
"""The context and the kernels of libraries."""

STEPS = 4
facts: dict[str, Any] = {}


def stage(name: str, start: float) -> float:
    """Note what the stage took; the time now."""
    facts[f"{name}_s"] = round(time.perf_counter() - start, 1)
    facts["host_peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(name, json.dumps(facts), flush=True)
    return time.perf_counter()


def main() -> None:
    """One line a stage; the facts in OUT/deep-DEPTH.json."""
    out, depth = Path(sys.argv[1]), int(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
    now = time.perf_counter()
    forward = build_forward("resnet", ZooOptions(batch=16, depth=depth))
    step_model = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("momentum"), device="cuda")
    imported = import_model(step_model)
    del forward, step_model
    facts.update(depth=depth, layers=len(imported.graph.layers), operators=len(imported.graph.ops))
    now = stage("build", now)
    table = profile(imported, "cuda")
    write_costs(table, out / f"deep-{depth}.costs.json")
    now = stage("profile", now)
    options = CompileOptions(str(LIMIT - BESIDE), time_limit_s=seconds)
    plan = compile_model(imported, table, options).plan
    facts.update(
        predicted_ms=plan.prediction.step_ns / 1e6,
        base_ms=plan.prediction.unconstrained_step_ns / 1e6,
        bound_ms=plan.certificate.lower_bound_ns / 1e6,
        liveness_peak_MiB=plan.memory.liveness_peak_bytes // MIB,
        slab_MiB=plan.memory.slab_bytes // MIB,
        pinned_MiB=plan.memory.host_bytes // MIB,
        copies=len(plan.copies),
        segments=len(plan.segments),
        recomputed=len(plan.runs) - plan.model.layers,
    )
    now = stage("compile", now)
    with load(plan, imported, replay=False) as step:
        now = stage("load", now)
        losses, times = [], []
        for seed in range(STEPS):
            feeds = synthetic_feeds(imported.graph, seed)
            start = time.perf_counter()
            losses.append(float(next(iter(step(feeds).values()))))
            times.append(round((time.perf_counter() - start) * 1e3, 1))
        facts.update(losses=losses, step_ms=times, card_MiB=used() // MIB, sessions=step.device.session_count)
        facts["within"] = used() < LIMIT
        now = stage("steps", now)
    (out / f"deep-{depth}.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
