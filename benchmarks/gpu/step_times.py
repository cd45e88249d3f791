"""Times of whole steps as one ordinary session each, no plan: what operators and kernels of a source tree are worth.

    PYTHONPATH=SITE python3 benchmarks/gpu/step_times.py [--out FILE] [--kernels COUNT] CASE ...

For each case the median ms of a step whose batch is on the card, the device's memory that the session took, the ms that
kernels ran (traced by CUPTI through PyTorch's profiler, so without the host's launches), and the COUNT kernels with most.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from card_networks import CASES, build
from processes import MIB, alone, median_ms, used
from run_plans import on_card
from trace_kernels import events, traced

from planc.runtime.measure import UnplannedStep, synthetic_feeds


def _one(name: str, count: int) -> dict[str, Any]:
    imported = build(name)
    before = used()
    run = on_card(UnplannedStep(imported, "cuda"), synthetic_feeds(imported.graph, 0))
    facts = {"ms": median_ms(run), "MiB": (used() - before) // MIB}
    return {**facts, **_kernels(run, count)}


def _kernels(run: Callable[[], object], count: int) -> dict[str, Any]:
    """Total ms of all kernels of one step, and (name, how often, ms) of those that take most."""
    spent: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "step.trace.json.gz"
        traced(run, file)
        for kernel in events(file)[0]:
            spent[kernel["name"]].append(kernel["dur"] / 1e3)
    top = sorted(spent.items(), key=lambda item: -sum(item[1]))[:count]
    return {
        "kernels_ms": round(sum(map(sum, spent.values())), 3),
        "kernels": sum(map(len, spent.values())),
        "most": [(name[:90], len(times), round(sum(times), 3)) for name, times in top],
    }


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kernels", type=int, default=20)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name in options.cases:
        found[name] = alone(partial(_one, name, options.kernels))
        most = found[name].get("most", [])
        print(name, json.dumps({k: v for k, v in found[name].items() if k != "most"}), flush=True)
        for kernel, times, ms in most:
            print(f"  {ms:9.3f} ms {times:5d}  {kernel}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
