"""Executes plans on the card: launched, replayed and unplanned times, memory by the driver, every bit compared.

    PYTHONPATH=SITE python3 benchmarks/gpu/run_plans.py --out FOLDER PLANS CASE ...

PLANS holds CASE.BUDGET.plan.json files. Each plan runs in a process of its own, so that the driver counts its memory
alone. Writes runs-CASE.json; prints a line for each plan.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from card_networks import build
from processes import MIB, alone, median_ms, used

from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.runtime.measure import UnplannedStep, measure, synthetic_feeds
from planc.runtime.step import TrainingStep, load


def on_card(step: UnplannedStep, batch: dict[str, Any]) -> Callable[[], None]:
    """One run of the ordinary session, its batch already on the card."""
    feeds = {name: step._on_device(value) for name, value in batch.items()}

    def run() -> None:
        binding = step._session.io_binding()
        for name, value in {**feeds, **step._state}.items():
            binding.bind_ortvalue_input(name, value)
        for name in step._names:
            binding.bind_output(name, "cuda", 0)
        step._session.run_with_iobinding(binding)

    return run


def unplanned(imported: ImportedModel) -> dict[str, Any]:
    """Time and memory of the ordinary session."""
    before = used()
    run = on_card(UnplannedStep(imported, "cuda"), synthetic_feeds(imported.graph, 0))
    return {"unplanned_ms": median_ms(run), "unplanned_MiB": (used() - before) // MIB}


def one(imported: ImportedModel, plan: Plan, compare: bool) -> dict[str, Any]:
    """Times and memory of one plan."""
    facts: dict[str, Any] = {
        "budget_MiB": plan.memory.budget_bytes // MIB,
        "predicted_ms": round(plan.prediction.step_ns / 1e6, 3),
        "base_ms": round(plan.prediction.unconstrained_step_ns / 1e6, 3),
        "bound_ms": round(plan.certificate.lower_bound_ns / 1e6, 3),
        "copies": len(plan.copies),
        "swapped_MiB": sum(c.bytes for c in plan.copies) // MIB,
        "segments": len(plan.segments),
        "recomputed": len(plan.runs) - plan.model.layers,
        "slab_MiB": plan.memory.slab_bytes // MIB,
        "scratch_MiB": plan.memory.scratch_bytes // MIB,
        "sessions_MiB": plan.memory.session_bytes // MIB,
    }
    before = used()
    start = time.perf_counter()
    with load(plan, imported, replay=False) as step:
        facts["load_s"] = round(time.perf_counter() - start, 1)
        step(synthetic_feeds(imported.graph, 0))
        facts["device_MiB"] = (used() - before) // MIB
        facts["sessions"] = step.device.session_count
        facts["launched_ms"] = median_ms(step._executor.run_step)
        facts |= replayed(step, before)
    if compare:
        with load(plan, imported) as step:
            result = measure(step, 6, 0, compare=True)
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
    for case in options.cases:
        results: dict[str, Any] = {}
        imported = build(case)
        works: dict[str, Callable[[], dict[str, Any]]] = {case: partial(unplanned, imported)}
        for file in sorted(options.plans.glob(f"{case}.*.plan.json")):
            plan = Plan.load(file)
            works[file.name.removesuffix(".plan.json")] = partial(one, imported, plan, not options.no_compare)
        for name, work in works.items():
            results[name] = alone(work)
            print(name, json.dumps(results[name]), flush=True)
            (options.out / f"runs-{case}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
