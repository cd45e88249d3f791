"""First contact with a card: every part of the CUDA runtime once, each step on its own, a table last.

PYTHONPATH=SITE:tests python3 benchmarks/gpu/bring_up.py [--out FOLDER] [STEP ...]
"""

import argparse
import json
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from card_networks import build
from support.costs import made_up_costs
from support.plans import plan_of
from support.schedules import random_schedule

from planc.importer.import_model import ImportedModel
from planc.importer.submodel import sub_model
from planc.plan.executed import executed
from planc.plan.plan import Plan
from planc.plan.residency_index import ResidencyIndex
from planc.planning.build import build_problem
from planc.runtime.cuda import graph as cuda_graph
from planc.runtime.cuda.driver import Context, call
from planc.runtime.cuda.provider import cuda_session, load_libraries
from planc.runtime.measure import UnplannedStep, measure, synthetic_feeds
from planc.runtime.ort.sessions import faithful_options, record_scratch
from planc.runtime.step import load

SCRATCH = 1 << 30
MIB = 1 << 20
facts: dict[str, Any] = {}


def card_plan(imported: ImportedModel, seed: int) -> Plan:
    """The plan of a random schedule for a card, with scratch that certainly is enough."""
    problem = build_problem(imported.graph, made_up_costs(imported.graph)).problem
    plan = plan_of(imported, random_schedule(problem, seed))
    memory = plan.memory
    return msgspec.structs.replace(
        plan,
        costs=msgspec.structs.replace(plan.costs, kind="cuda"),
        memory=msgspec.structs.replace(memory, scratch_bytes=SCRATCH, budget_bytes=memory.slab_bytes + SCRATCH),
    )


def used() -> int:
    """Device memory in use on the whole card."""
    free, total = call("cuMemGetInfo")
    return int(total - free)


def machine() -> dict[str, object]:
    info = Context().info()
    return {"name": info.name, "driver": info.driver_version, "ort": ort.__version__, "used_MiB": used() // MIB}


def provider() -> dict[str, object]:
    load_libraries()
    return {"available": ",".join(ort.get_available_providers())}


def repeatable(name: str) -> dict[str, object]:
    """Two unplanned sessions over the same batches."""
    imported = build(name)
    first, second = UnplannedStep(imported, "cuda"), UnplannedStep(imported, "cuda")
    different: Counter[str] = Counter()
    for seed in range(3):
        feeds = synthetic_feeds(imported.graph, seed)
        a, b = first(feeds), second(feeds)
        for mine, theirs in ((a, b), (first.state, second.state)):
            for key, value in mine.items():
                different[key] += int((value != theirs[key]).sum())
    wrong = {k: v for k, v in different.items() if v}
    return {"hash": imported.graph.content_hash[:12], "operators": len(imported.graph.ops), "different": wrong}


def scratch(name: str) -> dict[str, object]:
    """What ONNX Runtime's statistics say of the provider's scratch, by operator."""
    imported = build(name)
    model = sub_model(imported, range(len(imported.graph.ops)))
    options = faithful_options()
    record_scratch(options, Path("/tmp/stats.csv"))
    before = used()
    session = cuda_session(model.model_bytes, 0, None, options)
    created = used() - before
    tensors = imported.graph.tensors
    feeds = {
        port.name: np.ones(tensors[port.tensor].shape, tensors[port.tensor].dtype)
        if np.dtype(tensors[port.tensor].dtype).kind == "f"
        else np.zeros(tensors[port.tensor].shape, tensors[port.tensor].dtype)
        for port in model.inputs
    }
    session.run([model.outputs[-1].name], feeds)
    ran = used() - before
    del session
    lines = Path("/tmp/stats.csv").read_text().splitlines()
    (OUT / f"stats-{name}.csv").write_text("\n".join(lines))
    return {"created_MiB": created // MIB, "ran_MiB": ran // MIB, "header": lines[0], "rows": len(lines)}


def planned(name: str, seed: int) -> dict[str, object]:
    """A random schedule: swaps and recomputations; launched and replayed steps against the unplanned graph."""
    imported = build(name)
    plan = card_plan(imported, seed)
    before = used()
    with load(plan, imported, measure=True, replay=False) as step:
        after = used()
        launched = measure(step, 3, 0, compare=True)
        loaded = used()
        launch_ms = timed(step)
    with load(plan, imported) as step:
        replayed = measure(step, 6, 0, compare=True)
        replay_ms = timed(step)
        refused = step.device.capture_refused
        nodes = [r.nodes for r in step.device._replays]
        sessions = step.device.session_count
    closed = used()
    parts = list(executed(imported.graph, plan.runs, plan.segments, ResidencyIndex(plan.residencies)))
    return {
        "segments": len(plan.segments),
        "empty": sum(part.empty for part in parts),
        "placed": sum(len(part.placed) for part in parts),
        "copies": len(plan.copies),
        "sessions": sessions,
        "launched_differing": launched.differing_values,
        "replayed_differing": replayed.differing_values,
        "loss": launched.losses[-1],
        "launch_ms": launch_ms,
        "replay_ms": replay_ms,
        "refused": refused,
        "nodes": nodes,
        "slab_MiB": plan.memory.slab_bytes // MIB,
        "scratch_MiB": launched.peak_scratch_bytes // MIB,
        "device_MiB": [(x - before) // MIB for x in (after, loaded, closed)],
    }


def timed(step: Any) -> float:
    """Median ms of a step without feeding."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        step._executor.run_step()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 3)


def host_nodes() -> dict[str, object]:
    """Which kinds of graph nodes a captured step has: counted before host callbacks are bridged."""
    kinds: Counter[str] = Counter()
    bridge = cuda_graph._bridge_host_nodes

    def count(graph: Any) -> None:
        for node in call("cuGraphGetNodes", graph, call("cuGraphGetNodes", graph, 0)[1])[0]:
            kinds[str(call("cuGraphNodeGetType", node)).split("_TYPE_")[-1]] += 1
        bridge(graph)

    cuda_graph._bridge_host_nodes = count
    try:
        imported = build("gpt-small")
        with load(card_plan(imported, 3), imported) as step:
            feeds = synthetic_feeds(imported.graph, 0)
            for _ in range(3):
                step(feeds)
    finally:
        cuda_graph._bridge_host_nodes = bridge
    return dict(kinds)


def shared_arrays() -> dict[str, object]:
    """Feeds as PyTorch tensors on the card, and outputs read through PyTorch, against host arrays."""
    import torch

    imported = build("gpt-small")
    plan, feeds = card_plan(imported, 1), synthetic_feeds(imported.graph, 0)
    with load(plan, imported) as step:
        want = step(feeds)
    with load(plan, imported) as step:
        step.run([], {name: torch.from_numpy(value).cuda() for name, value in feeds.items()})
        got = {name: torch.from_dlpack(step.on_device(name)).cpu().numpy() for name in step.output_names}
    return {"differing": sum(int((got[name] != value).sum()) for name, value in want.items()), "outputs": len(got)}


def attempt(name: str, work: Callable[[], dict[str, object]]) -> None:
    start = time.perf_counter()
    try:
        facts[name] = work()
    except Exception as error:
        traceback.print_exc(limit=6)
        facts[name] = {"FAILED": f"{type(error).__name__}: {str(error)[:600]}"}
    facts[name]["seconds"] = round(time.perf_counter() - start, 1)
    print(f"{name}: {json.dumps(facts[name], default=str)}", flush=True)
    (OUT / "bring_up.json").write_text(json.dumps(facts, indent=1, default=str))


STEPS: dict[str, Callable[[], dict[str, object]]] = {
    "machine": machine,
    "provider": provider,
    "repeat-r18": lambda: repeatable("r18-small"),
    "repeat-gpt": lambda: repeatable("gpt-small"),
    "scratch-r18": lambda: scratch("r18-small"),
    "scratch-gpt": lambda: scratch("gpt-small"),
    "planned-r18": lambda: planned("r18-small", 0),
    "planned-gpt": lambda: planned("gpt-small", 1),
    "planned-bert": lambda: planned("bert-small", 4),
    "planned-squeezenet": lambda: planned("squeezenet-1", 2),
    "planned-densenet": lambda: planned("densenet-1", 3),
    "host-nodes": host_nodes,
    "dlpack": shared_arrays,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("steps", nargs="*", default=list(STEPS))
    options = parser.parse_args()
    OUT = options.out
    for chosen in options.steps:
        attempt(chosen, STEPS[chosen])
