"""Which PyTorch models train under a plan: export, losses and parameters against eager torch, bits at half the peak.

    python benchmarks/coverage.py                       every model; writes results/coverage.json and the page
    python benchmarks/coverage.py --only timm --redo    one group, again
    python benchmarks/coverage.py --part 0/2            every second model, for two processes side by side

The libraries are installed, at the first run, into an environment of its own on top of the one that runs this file.
Rows that are there already are kept, so that the command can be interrupted and started again.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import venv
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "build" / "coverage-environment"
RESULTS = HERE / "results" / "coverage.json"
PAGE = HERE.parent / "docs" / "results" / "coverage.md"
STEPS, SECONDS = 3, 150
HEAD = f"""# Models that train under a plan

Written by `python benchmarks/coverage.py`: random weights, small configurations, SGD with momentum, on the CPU.
*Difference*: losses and parameters after {STEPS} steps against eager torch in float32, the worst relative one.
*Planned*: at half the liveness peak; *bits*: two planned steps equal the unplanned ones in every bit.

Rows that say "not planned yet" were exported and compared only. Several convolutional networks with batch-norm differ
by more than 1e-4 on these small images with few samples; whether that is rounding that their statistics amplify has not
been settled against float64. Some refusals are of the table's own making: labels above a head's classes, settings that
do not go together, a machine too busy for the time limit.

"""
UNPLANNED = "not planned yet"


def environment() -> Path:
    """The Python of the environment, made if need be."""
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "done"
    if not done.exists():
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
        folder = next((ENVIRONMENT / "lib").glob("python*/site-packages"))
        (folder / "base.pth").write_text(
            "".join(f"import site; site.addsitedir({p!r})\n" for p in sys.path if "site-packages" in p)
        )
        import torch

        pinned = ENVIRONMENT / "constraints.txt"
        pinned.write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
        listed = HERE / "coverage_cases" / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", pinned, "-r", listed], check=True)
        done.touch()
    return python


def prepare_torchvision() -> None:
    """torchvision's compiled operators need the torch build that they were made for; networks need their names only."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = library


def without_randomness(module: Any) -> Any:
    """Dropout off: eager torch draws other numbers."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd):
            part.p = 0.0
        for key, value in list(vars(part).items()):
            if isinstance(value, float) and ("dropout" in key or "drop_prob" in key):
                setattr(part, key, 0.0)
    return module


def eager(module: Any, loss: Any, batch: Any) -> list[float]:
    """Train in place; the losses."""
    import torch

    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-2, momentum=0.9)
    inputs, targets = batch
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        out = (
            module(**inputs)
            if isinstance(inputs, dict)
            else module(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        )
        value = loss(out) if targets is None else loss(out, targets)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def measured(case: Any, plan: bool) -> dict[str, Any]:
    """One row of the table; without its plan where that is not asked for."""
    import copy

    import numpy as np
    import onnxruntime as ort
    import torch
    from onnx import numpy_helper

    import planc
    from planc.errors import PlancError
    from planc.graph import annotations
    from planc.runtime.measure import measure
    from planc.runtime.ort.sessions import faithful_options
    from planc.torch.batch import batch_of
    from planc.torch.export import exported
    from planc.training.step_options import PLAIN

    row = {
        "group": case.group,
        "model": case.name,
        "exported": False,
        "worst_difference": None,
        "planned": False,
        "bits_equal": None,
        "reason": "",
    }
    torch.manual_seed(0)
    try:
        module, loss, batch = case.make()
    except Exception as error:
        return {**row, "reason": f"cannot be made: {type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    module = without_randomness(module.train())
    reference = copy.deepcopy(module)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-2, momentum=0.9)
    try:
        taken = batch_of(batch)
        made_of = exported(module, loss, taken, optimizer, "cpu", PLAIN)
        model = made_of.model
        row["exported"] = True
        pairs = {k: str(v) for k, v in annotations.read_json(model, annotations.STATE).items()}
        state = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in pairs}
        read = {i.name for i in model.graph.input}
        given = zip(made_of.inputs, taken.tensors, strict=True)
        feeds = {name: tensor.numpy() for name, tensor in given if name in read}
        session = ort.InferenceSession(
            model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"]
        )
        outputs, losses = [o.name for o in session.get_outputs()], []
        for _ in range(STEPS):
            made = dict(zip(outputs, session.run(None, {**feeds, **state}), strict=True))
            losses.append(float(made["loss"]))
            state = {name: made[following] for name, following in pairs.items()}
        expected = eager(reference, loss, batch)
        worst = max(abs(a - b) / max(1e-3, abs(b)) for a, b in zip(losses, expected, strict=True))
        tensors = dict(reference.named_parameters()) | dict(reference.named_buffers())
        for name in state.keys() & tensors.keys():
            wanted = tensors[name].detach().numpy()
            worst = max(
                worst, float(np.abs(state[name] - wanted).max(initial=0) / max(1e-2, np.abs(wanted).max(initial=0)))
            )
        row["worst_difference"] = float(f"{worst:.3g}")
        del session
        if not plan:
            return {**row, "reason": UNPLANNED}
        made_plan = planc.compile(model, budget="50%", device="cpu", time_limit=2.0)
        row["planned"] = True
        with planc.load(made_plan, model) as step:
            row["bits_equal"] = bool(measure(step, steps=2, seed=0, compare=True).bitwise_equal)
    except PlancError as error:
        row["reason"] = str(error).splitlines()[0][:300]
    except TimeoutError:
        row["reason"] = f"not done within {SECONDS} s"
    except Exception as error:
        row["reason"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return row


def store(row: dict[str, Any]) -> None:
    """Put one row in its place in the results."""
    with (RESULTS.parent / ".coverage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = {(r["group"], r["model"]): r for r in known()}
        rows[row["group"], row["model"]] = row
        RESULTS.write_text(json.dumps(sorted(rows.values(), key=lambda r: (r["group"], r["model"])), indent=1) + "\n")


def known() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def work(only: str, part: str, redo: bool, plan: bool) -> None:
    """Measure every case of this part that has no row yet."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    prepare_torchvision()
    from benchmarks.coverage_cases import language, others, vision

    def late(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    first, count = (int(n) for n in part.split("/"))
    done = set() if redo else {(r["group"], r["model"]) for r in known() if not (plan and r["reason"] == UNPLANNED)}
    listed = [c for source in (others, language, vision) for c in source.cases()]
    for case in listed[first::count]:
        if (case.group, case.name) in done or (only and only not in (case.group, case.name)):
            continue
        signal.alarm(SECONDS)
        try:
            row = measured(case, plan)
        except TimeoutError:
            row = {
                "group": case.group,
                "model": case.name,
                "exported": False,
                "worst_difference": None,
                "planned": False,
                "bits_equal": None,
                "reason": f"not done within {SECONDS} s",
            }
        signal.alarm(0)
        store(row)
        print(json.dumps(row), flush=True)


def page() -> None:
    """The table as a page."""
    rows, lines = known(), HEAD.splitlines()
    for group in dict.fromkeys(r["group"] for r in rows):
        own = [r for r in rows if r["group"] == group]
        exported, planned, equal = (sum(bool(r[k]) for r in own) for k in ("exported", "planned", "bits_equal"))
        lines += [
            f"## {group}",
            "",
            f"{len(own)} models: {exported} exported, {planned} planned, {equal} of equal bits.",
            "",
            "| model | exported | difference | planned | bits | reason |",
            "|---|---|---|---|---|---|",
        ]
        for r in own:
            marks = ["yes" if r[k] else "no" for k in ("exported", "planned", "bits_equal")]
            worst = "" if r["worst_difference"] is None else f"{r['worst_difference']:.1e}"
            reason = r["reason"].replace("|", "\\|")
            lines.append(f"| {r['model']} | {marks[0]} | {worst} | {marks[1]} | {marks[2]} | {reason} |")
        lines.append("")
    PAGE.write_text("\n".join(lines))


def main() -> None:
    """Enter the environment, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a group or a model")
    parser.add_argument("--part", default="0/1", help="which part of how many")
    parser.add_argument("--redo", action="store_true", help="measure again what has a row")
    parser.add_argument("--export-only", action="store_true", help="leave plans to a later run")
    parser.add_argument("--page", action="store_true", help="write the page from the rows that are there")
    options = parser.parse_args()
    if options.page:
        return page()
    # This file's folder is no place to import from: another package is called like this file.
    sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
    if os.environ.get("PLANC_COVERAGE") != "1":
        raise SystemExit(
            subprocess.run(
                [environment(), __file__, *sys.argv[1:]], env={**os.environ, "PLANC_COVERAGE": "1"}
            ).returncode
        )
    work(options.only, options.part, options.redo, not options.export_only)
    return page()


if __name__ == "__main__":
    main()
