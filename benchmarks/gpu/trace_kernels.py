"""Which kernels take longer in a planned step than in the ordinary session, and what the copies beside them have to do
with it. Traced by CUPTI through PyTorch's profiler, which sees the kernels of the whole process.

    PYTHONPATH=SITE python3 benchmarks/gpu/trace_kernels.py OUT PLANS CASE CASE.BUDGET ...

CASE alone is the ordinary session. Writes a trace for each into OUT (*.trace.json.gz, for a viewer of Chrome traces) and
prints, for every kernel that runs at the same size in both, how long it takes on average alone and beside copies.
"""

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from card_networks import build
from processes import alone
from run_plans import on_card

from planc.plan.plan import Plan
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.step import load

Event = dict[str, Any]
Key = tuple[str, str, str]
"""A kernel's name, grid and block."""

SHOWN = 25


def traced(work: Callable[[], object], file: Path) -> None:
    """Run `work` three times, the last of them traced into `file`."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.init()
    work()
    with profile(activities=[ProfilerActivity.CUDA]):  # the first one loads what tracing needs
        work()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        work()
    trace.export_chrome_trace(str(file))


def of_plan(plan: Plan, case: str, file: Path) -> dict[str, Any]:
    """Trace a launched planned step."""
    imported = build(case)
    with load(plan, imported, replay=False) as step:
        step(synthetic_feeds(imported.graph, 0))
        traced(step._executor.run_step, file)
    return {}


def of_session(case: str, file: Path) -> dict[str, Any]:
    """Trace the ordinary session."""
    imported = build(case)
    traced(on_card(UnplannedStep(imported, "cuda"), synthetic_feeds(imported.graph, 0)), file)
    return {}


def events(file: Path) -> tuple[list[Event], list[Event]]:
    """(kernels, copies) of a trace; times in µs."""
    with gzip.open(file) as text:
        found = json.load(text)["traceEvents"]
    kernels = [e for e in found if e.get("cat") == "kernel"]
    return kernels, [e for e in found if e.get("cat") == "gpu_memcpy" and "Device -> Device" not in e["name"]]


def beside(kernels: list[Event], copies: list[Event]) -> list[float]:
    """For each kernel, which must be in order of start: the average number of large copies that run beside it."""
    large = sorted((c for c in copies if c["args"].get("bytes", 0) >= 1 << 16), key=lambda c: c["ts"])
    found, first = [], 0
    for kernel in kernels:
        start, end = kernel["ts"], kernel["ts"] + kernel["dur"]
        while first < len(large) and large[first]["ts"] + large[first]["dur"] <= start:
            first += 1
        lasting = (c for c in large[first:] if c["ts"] < end)
        shared = sum(max(0.0, min(end, c["ts"] + c["dur"]) - max(start, c["ts"])) for c in lasting)
        found.append(shared / max(kernel["dur"], 1e-3))
    return found


def times(file: Path) -> dict[Key, list[list[float]]]:
    """Durations in µs of every kernel: alone, beside a copy, and beside two."""
    kernels, copies = events(file)
    kernels.sort(key=lambda e: e["ts"])
    sorts: dict[Key, list[list[float]]] = defaultdict(lambda: [[], [], []])
    for kernel, copying in zip(kernels, beside(kernels, copies), strict=True):
        key = (kernel["name"], str(kernel["args"]["grid"]), str(kernel["args"]["block"]))
        sorts[key][0 if copying < 0.1 else 1 if copying < 1.4 else 2].append(kernel["dur"])
    return sorts


def table(plain: dict[Key, list[list[float]]], planned: dict[Key, list[list[float]]]) -> list[str]:
    """Lines for the kernels that add most to the planned step, and for all of them."""
    rows, sums = [], [[0.0, 0.0, 0] for _ in range(3)]
    for key, kinds in planned.items():
        if key not in plain:
            continue
        usual = sum(plain[key][0]) / len(plain[key][0])
        for total, kind in zip(sums, kinds, strict=True):
            total[0], total[1], total[2] = total[0] + sum(kind), total[1] + usual * len(kind), total[2] + len(kind)
        added = sum(map(sum, kinds)) - usual * sum(map(len, kinds))
        cells = " | ".join(f"{len(k)}: {sum(k) / len(k) / usual:.3f}" if k else "-" for k in kinds)
        rows.append((added, f"{added:9.0f} us | {usual:8.1f} | {cells} | {key[0][:90]} {key[1]}"))
    rows.sort(reverse=True)
    ratios = ", ".join(f"{n} kernels {a / 1e3:.2f} ms for {b / 1e3:.2f}" for a, b, n in sums)
    return [f"alone, beside one copy, beside two: {ratios}", *(line for _, line in rows[:SHOWN])]


def main() -> None:
    """A trace and a table for each plan."""
    out, plans = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:]:
        case, _, budget = name.partition(".")
        file = out / f"{name}.trace.json.gz"
        plan = Plan.load(plans / f"{name}.plan.json") if budget else None
        print(name, alone(partial(of_plan, plan, case, file) if plan else partial(of_session, case, file)), flush=True)
        if plan and (out / f"{case}.trace.json.gz").exists():
            print("\n".join(table(times(out / f"{case}.trace.json.gz"), times(file))), flush=True)


if __name__ == "__main__":
    main()
