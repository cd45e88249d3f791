"""How long a plan takes until its first step can begin, and what the executor itself takes of a step.

    python benchmarks/cpu/startup.py [--networks resnet50,resnet2504] [--steps 5] [--json FILE]

A network is built, profiled and planned with all memory that it wants; nothing is swapped, so that a step never waits. A
process of its own then loads the plan: its modules, the model, the verifier, and all the rest, which is mostly sessions.
The executor's share of a step is what is left of it without ONNX Runtime's runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

PLANC = str(Path(sys.executable).with_name("planc"))
NETWORKS = {
    "resnet50": ("resnet50", "--batch", "8", "--image", "112"),
    "resnet2504": ("resnet", "--depth", "2504", "--width", "8", "--batch", "1", "--image", "32"),
}
STAGES = {"model": "import_for", "verify": "require_valid"}
"""Functions of `planc.runtime.step`, as `load` sees them."""


def load_here(plan: str, model: str, steps: int) -> dict[str, float]:
    """Seconds of each stage of loading, and the share of a step that is no run of ONNX Runtime's."""
    found, started = defaultdict[str, float](float), time.perf_counter()
    from planc.runtime import step
    from planc.runtime.measure import synthetic_feeds
    from planc.runtime.ort import binding

    found["modules"] = time.perf_counter() - started
    for stage, name in STAGES.items():
        setattr(step, name, _timed(getattr(step, name), found, stage))
    bound = binding.bound_run
    binding.bound_run = lambda *given: _timed(bound(*given), found, "runs")
    started, cpu_s = time.perf_counter(), time.process_time()
    loaded = step.load(plan, model)
    found["load"], found["load_cpu"] = time.perf_counter() - started, time.process_time() - cpu_s
    found["sessions"] = found["load"] - sum(found[stage] for stage in STAGES)
    feeds = synthetic_feeds(loaded.imported.graph, 0)
    loaded(feeds)
    shares = []
    for _ in range(steps):
        found["runs"], started = 0.0, time.perf_counter()
        loaded(feeds)
        shares.append(1 - found["runs"] / (time.perf_counter() - started))
    found["executor_percent"] = 100 * statistics.median(shares)
    return found


def _timed(function: Callable[..., Any], into: dict[str, float], stage: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            into[stage] += time.perf_counter() - started

    return timed


def measure(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """The row of one network."""
    model, costs, plan = (str(folder / f"{name}.{end}") for end in ("onnx", "costs.json", "plan.json"))
    for command in (
        ("zoo", "build", *NETWORKS[name], "-o", model),
        ("profile", model, "--device", "cpu", "-o", costs),
        ("compile", model, "--costs", costs, "--solver", "keep-all", "--budget", "max", "-o", plan),
    ):
        subprocess.run([PLANC, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    layers = json.loads(Path(plan).read_text())["model"]["layers"]
    command = [sys.executable, __file__, "load", plan, model, str(steps)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rounded = {stage: round(value, 3) for stage, value in found.items() if stage != "runs"}
    return {"network": name, "layers": layers, **rounded}


def main() -> None:
    """Print a line for each network."""
    if sys.argv[1:2] == ["load"]:
        plan, model, steps = sys.argv[2:]
        sys.stdout.write(json.dumps(load_here(plan, model, int(steps))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    for name in chosen.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), name, chosen.steps))
        sys.stdout.write(f"{rows[-1]}\n")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"rows": rows, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
