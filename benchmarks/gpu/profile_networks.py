"""Profiles networks on the card and, for comparison, times each as one ordinary session.

    PYTHONPATH=SITE python3 benchmarks/gpu/profile_networks.py --out FOLDER [CASE ...]

Writes CASE.costs.json for each; prints a line for each.
"""

import argparse
import json
import time
import traceback
from pathlib import Path
from typing import Any

from card_networks import CASES, build
from processes import MIB
from run_plans import unplanned

from planc.costs.store import write_costs
from planc.profiling.profile import profile


def one(name: str, out: Path, forms: bool = False) -> dict[str, Any]:
    start = time.perf_counter()
    imported = build(name)
    built = time.perf_counter()
    table = profile(imported, "cuda", forms=forms)
    done = time.perf_counter()
    write_costs(table, out / f"{name}.costs.json")
    layers = [table.layer(i) for i in range(len(table.layers))]
    facts: dict[str, Any] = {
        "build_s": round(built - start, 1),
        "profile_s": round(done - built, 1),
        "distinct": len(table.unique),
        "layers_ms": sum(x.compute_ns for x in layers) / 1e6,
        "scratch_MiB": max(x.scratch_bytes for x in layers) / MIB,
        "session_MiB": table.device.session_bytes / MIB,
        "with_forms": sum(1 for x in table.unique if x.alternatives),
        "boundary_us": table.boundary_ns / 1e3,
    }
    top = sorted(range(len(layers)), key=lambda i: -layers[i].compute_ns)[:12]
    facts["slowest"] = [(imported.graph.layers[i].title, round(layers[i].compute_ns / 1e6, 3)) for i in top]
    try:
        facts["unplanned"] = unplanned(imported)
    except Exception as error:
        facts["unplanned"] = str(error)[:300]
    return facts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--forms", action="store_true", help="measure other forms of convolutions too")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    results = {}
    for case in options.cases:
        try:
            results[case] = one(case, options.out, options.forms)
        except Exception as error:
            traceback.print_exc(limit=5)
            results[case] = {"FAILED": str(error)[:500]}
        print(case, json.dumps(results[case]), flush=True)
        (options.out / "profiles.json").write_text(json.dumps(results, indent=1))
