"""Seconds of CPU that a step takes on one core: PyTorch eager, and unplanned steps by forms. Good on busy machines too.

    python benchmarks/cpu/one_core.py [--networks resnet18,gpt2] [--steps 3] [--json FILE]

The graphs are those that `against_pytorch.py` exports and compares. Each runs in a process of its own that is bound to one
core; what counts is the least time of the process itself, which others on the core lengthen by some percent, through its
caches. How well several cores share the work is not in it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))  # this checkout, whatever is installed

KINDS = ("torch", "onednn", "cpu")


def eager(name: str) -> Callable[[], object]:
    """PyTorch's step."""
    import torch
    from modules import CASES

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return CASES[name]().eager_step()


def unplanned(model: Path) -> Callable[[], object]:
    """The exported step in ONNX Runtime's own memory."""
    import numpy as np

    from planc.importer.import_model import import_model
    from planc.runtime.measure import UnplannedStep

    step, feeds = UnplannedStep(import_model(model)), dict(np.load(model.with_suffix(".npz")))
    return lambda: step(feeds)


def measure(name: str, kind: str, folder: Path, steps: int) -> float:
    """The least seconds of some steps, the first left out."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    step = eager(name) if kind == "torch" else unplanned(folder / f"{name}-{kind}.onnx")
    step()
    found = []
    for _ in range(steps):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def row(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """All kinds of one network; forms that change nothing of its graph are left out."""
    from against_pytorch import exports

    models = exports(chosen.folder, name, ",".join(KINDS[1:]))
    found: dict[str, float] = {}
    for kind in ("torch", *(model.stem.rpartition("-")[2] for model in models)):
        given = ["--one", kind, "--networks", name, "--steps", str(chosen.steps), "--folder", str(chosen.folder)]
        answer = subprocess.run([sys.executable, str(HERE), *given], check=True, stdout=subprocess.PIPE, text=True)
        found[kind] = float(answer.stdout)
    ratios = {f"{kind}_over_torch": round(s / found["torch"], 2) for kind, s in found.items() if kind != "torch"}
    return {"network": name, **{f"{kind}_s": round(s, 3) for kind, s in found.items()}, **ratios}


def main() -> None:
    """Print a line for each network."""
    from benchmarks import model_libraries

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,resnet50,mobilenet_v2,unet,bert,gpt2")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/against_pytorch"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    model_libraries.enter(__file__)
    if chosen.one:
        print(measure(chosen.networks, chosen.one, chosen.folder, chosen.steps))
        return
    rows = []
    for name in chosen.networks.split(","):
        rows.append(row(name, chosen))
        print(rows[-1], flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
