"""By how much processes grow: the unplanned step, and plans at several budgets, swapping to a file.

python benchmarks/cpu/memory.py [--json FILE]. Each figure is the growth of one process's resident memory, as Linux counts
it, from before the model is read to the end of the steps; `predicted` is what `planc run` expects. Times are in the
file too, but say something only on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLANC = str(Path(sys.executable).with_name("planc"))
NETWORKS = {
    "resnet18": ["--batch", "32", "--image", "112", "--optimizer", "momentum"],
    "gpt2": ["--batch", "16", "--depth", "4", "--width", "256", "--seq", "128", "--classes", "1000"],
}
BUDGETS = (100, 50)


def planc(*arguments: str) -> str:
    """What a command prints to stdout."""
    return subprocess.run([PLANC, *arguments], check=True, capture_output=True, text=True).stdout


def measure(folder: Path, name: str, steps: int) -> list[dict[str, object]]:
    """One row for each budget."""
    model, costs = str(folder / f"{name}.onnx"), str(folder / f"{name}.costs.json")
    planc("zoo", "build", name, *NETWORKS[name], "-o", model)
    planc("profile", model, "--device", "cpu", "--host-tier", "file", "-o", costs)
    rows = []
    for budget in BUDGETS:
        plan = str(folder / f"{name}-{budget}.plan.json")
        planc("compile", model, "--costs", costs, "--budget", f"{budget}%", "--time-limit", "20", "-o", plan)
        run = json.loads(planc("run", plan, "--steps", str(steps), "--compare", "--host-tier", "file", "--json"))
        memory = json.loads(Path(plan).read_text())["memory"]
        rows.append(
            {
                "network": name, "budget_percent": budget, "slab_mib": memory["slab_bytes"] >> 20,
                "host_mib": memory["host_bytes"] >> 20, "bitwise_equal": run["bitwise_equal"],
                "step_ms": round(run["step_ms"], 1), "unplanned_step_ms": round(run["unplanned_step_ms"], 1),
                **{f"{kind}_mib": round(run[f"{kind}_growth_bytes"] / 2**20, 1)
                   for kind in ("resident", "predicted", "unplanned")},
            }
        )  # fmt: skip
        sys.stdout.write(f"{rows[-1]}\n")
    return rows


def main() -> None:
    """Measure every network and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in NETWORKS for row in measure(Path(folder), name, chosen.steps)]
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"rows": rows, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
