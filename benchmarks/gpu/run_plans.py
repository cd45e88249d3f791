"""Executes plans on the card: launched, replayed and unplanned times, memory by the driver, every bit compared.

    PYTHONPATH=SITE python3 benchmarks/gpu/run_plans.py --out FOLDER PLANS CASE ...

PLANS holds CASE.BUDGET.plan.json files. Writes runs.json; prints a line for each plan.
"""

import argparse
import gc
import json
import statistics
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from networks import build

from planc.importer.build import ImportedModel
from planc.plan.files import read_plan
from planc.plan.plan import Plan
from planc.runtime.cuda_driver import Context, call
from planc.runtime.cuda_provider import reserve_scratch
from planc.runtime.measure import UnplannedStep, measure, synthetic_feeds
from planc.runtime.step import TrainingStep, load

MIB = 1 << 20
WARM, TIMED = 3, 15


def used() -> int:
    """Device memory in use on the whole card."""
    free, total = call("cuMemGetInfo")
    return int(total - free)


def median_ms(work: Any) -> float:
    """Median wall-clock ms of a call that ends with the card idle."""
    times = []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times[WARM:]), 3)


def unplanned(imported: ImportedModel) -> dict[str, Any]:
    """The ordinary session, its batch already on the card."""
    before = used()
    step = UnplannedStep(imported, "cuda")
    feeds = {name: step._on_device(value) for name, value in synthetic_feeds(imported.graph, 0).items()}

    def run() -> None:
        binding = step._session.io_binding()
        for name, value in {**feeds, **step._state}.items():
            binding.bind_ortvalue_input(name, value)
        for name in step._names:
            binding.bind_output(name, "cuda", 0)
        step._session.run_with_iobinding(binding)

    ms = median_ms(run)
    return {"unplanned_ms": ms, "unplanned_MiB": (used() - before) // MIB}


def one(imported: ImportedModel, plan: Plan, compare: bool) -> dict[str, Any]:
    """Times and memory of one plan."""
    facts: dict[str, Any] = {
        "budget_MiB": plan.memory.budget_bytes // MIB,
        "predicted_ms": round(plan.prediction.step_ns / 1e6, 3),
        "base_ms": round(plan.prediction.unconstrained_step_ns / 1e6, 3),
        "copies": len(plan.copies),
        "swapped_MiB": sum(c.bytes for c in plan.copies) // MIB,
        "segments": len(plan.segments),
        "recomputed": len(plan.runs) - plan.model.layers,
        "slab_MiB": plan.memory.slab_bytes // MIB,
        "scratch_MiB": plan.memory.scratch_bytes // MIB,
    }
    before = used()
    start = time.perf_counter()
    with load(plan, imported, replay=False) as step:
        facts["load_s"] = round(time.perf_counter() - start, 1)
        feeds = synthetic_feeds(imported.graph, 0)
        step(feeds)
        facts["device_MiB"] = (used() - before) // MIB
        facts["sessions"] = step.device.session_count
        facts["launched_ms"] = median_ms(step._executor.run_step)
        facts |= replayed(step, before)
    gc.collect()
    facts["left_MiB"] = (used() - before) // MIB
    if compare:
        with load(plan, imported) as step:
            result = measure(step, 3, 0, compare=True)
        facts["differing"], facts["losses"] = result.differing_values, [round(x, 4) for x in result.losses]
    return facts


def replayed(step: TrainingStep, before: int) -> dict[str, Any]:
    """The same step as a recorded graph."""
    executor = step._executor
    executor._queue = step.device.capture(executor._queue_step)
    refused = step.device.capture_refused
    return {
        "replayed_ms": median_ms(executor.run_step) if not refused else refused[:200],
        "nodes": sum(replay.nodes for replay in step.device._replays),
        "graph_MiB": (used() - before) // MIB,
    }


def main() -> None:
    """Every plan of every case, then the unplanned session."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--no-compare", action="store_true")
    parser.add_argument("plans", type=Path)
    parser.add_argument("cases", nargs="+")
    options = parser.parse_args()
    Context()
    results: dict[str, Any] = {}
    for case in options.cases:
        files = sorted(options.plans.glob(f"{case}.*.plan.json"))
        plans = {file.name.removesuffix(".plan.json"): read_plan(file) for file in files}
        reserve_scratch(max(plan.memory.scratch_bytes for plan in plans.values()))
        imported = build(case)
        for name, plan in plans.items():
            results[name] = attempt(partial(one, imported, plan, not options.no_compare))
            print(name, json.dumps(results[name]), flush=True)
            (options.out / f"runs-{options.cases[0]}.json").write_text(json.dumps(results, indent=1))
        results[case] = attempt(partial(unplanned, imported))
        print(case, json.dumps(results[case]), flush=True)
    (options.out / f"runs-{options.cases[0]}.json").write_text(json.dumps(results, indent=1))


def attempt(work: Any) -> dict[str, Any]:
    """The facts, or what went wrong."""
    try:
        return work()
    except Exception as error:
        traceback.print_exc(limit=8)
        return {"FAILED": f"{type(error).__name__}: {str(error)[:500]}"}


if __name__ == "__main__":
    main()
