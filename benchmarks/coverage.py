"""Which PyTorch models train under a plan: export, losses and parameters against eager torch, bits at half the peak.

    python benchmarks/coverage.py                       every model; writes results/coverage.json and the page
    python benchmarks/coverage.py --only timm --redo    one group, again
    python benchmarks/coverage.py --refused             again what has a reason: refused, not finished, not planned
    python benchmarks/coverage.py --part 0/2            every second model, for two processes side by side

The libraries are installed, at the first run, into an environment of its own on top of the one that runs this file.
Rows that are there already are kept, so that the command can be interrupted and started again.
"""

import argparse
import contextlib
import fcntl
import importlib
import json
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "coverage.json"
PAGE = HERE.parent / "docs" / "results" / "coverage.md"
STEPS, SECONDS, BUDGET = 3, 150, "50%"
UNPLANNED = "not planned yet"
LIBRARIES = {
    "diffusers": "diffusers",
    "graphs": "torch_geometric.nn",
    "peft": "peft",
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
}
"""What the models of a group come from."""
HEAD = f"""# Models that train under a plan

Written by `python benchmarks/coverage.py`: random weights, small configurations, SGD with momentum, on the CPU.
*Difference*: losses and parameters after {STEPS} steps against eager torch in float32, the worst relative one.
*Torch*: the same of eager float32 against eager float64, which is what rounding alone comes to in that network.
*Planned*: the share of the liveness peak, {BUDGET} or the least where that is more; *bits*: {STEPS} planned steps equal the
unplanned ones in every bit of outputs and state.

Where a difference is large, so is *torch*, or rounding errors in the parameters alone make one as large: batch-norm over
few values, and ReLUs near their bound, amplify rounding. [Rounding, and what networks make of it](conditioning.md) has
the measurement.

"""

Trained = tuple[list[float], dict[str, Any]]
"""Losses, and tensors by name."""


def without_randomness(module: Any) -> Any:
    """Dropout off: eager torch draws other numbers."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd) or type(part).__name__ == "StochasticDepth":
            part.p = 0.0
        for key, value in list(vars(part).items()):
            if isinstance(value, float) and ("dropout" in key or "drop_prob" in key):
                setattr(part, key, 0.0)
    return module


def eager_steps(module: Any, loss: Any, batch: Any, steps: int = STEPS) -> Iterator[float]:
    """Train a module in place with PyTorch eager; the loss of each step, when it has been made."""
    optimizer = optimizer_of(module)
    inputs, targets = batch
    named, positional = (inputs, ()) if isinstance(inputs, dict) else ({}, inputs)
    positional = positional if isinstance(positional, tuple) else (positional,)
    for _ in range(steps):
        optimizer.zero_grad()
        out = module(*positional, **named)
        value = loss(out) if targets is None else loss(out, targets)
        value.backward()
        optimizer.step()
        yield value.item()


def tensors_of(module: Any) -> dict[str, Any]:
    """Parameters and buffers as they are."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor.detach() for name, tensor in tensors.items()}


def trained(module: Any, loss: Any, batch: Any) -> Trained:
    """Losses of eager training in place, and the tensors that it ends with."""
    import torch

    losses = list(eager_steps(module, loss, batch))
    return losses, {n: t.numpy() for n, t in tensors_of(module).items() if t.dtype != torch.bfloat16}


def optimizer_of(module: Any) -> Any:
    import torch

    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-2, momentum=0.9)


def difference(found: Trained, wanted: Trained) -> float:
    """The worst relative difference of losses and of tensors, each against its largest element."""
    import numpy as np

    worst = max(abs(a - b) / max(1e-3, abs(b)) for a, b in zip(found[0], wanted[0], strict=True))
    for name in found[1].keys() & wanted[1].keys():
        other = wanted[1][name]
        apart = np.abs(found[1][name].astype(np.float64) - other).max(initial=0)
        worst = max(worst, float(apart / max(1e-2, np.abs(other).max(initial=0))))
    return float(f"{worst:.3g}")


def rounding(module: Any, loss: Any, batch: Any, float32: Trained) -> float | None:
    """How far eager float32 is from eager float64, None where a module does not run in it."""
    import torch
    import torch.utils._pytree as pytree

    def wide(value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    getattr(module, "set_experts_implementation", lambda _: None)("eager")  # transformers' other ones have no float64
    try:
        return difference(float32, trained(module.double(), loss, pytree.tree_map(wide, batch)))
    except (RuntimeError, TypeError, ValueError):
        return None


def measured(case: Any, plan: bool, tell: Callable[[dict[str, Any]], None]) -> None:
    """One row of the table, told again after each stage; without its plan where that is not asked for."""
    import torch

    from planc.errors import PlancError

    row = empty(case)
    torch.manual_seed(0)
    try:
        module, loss, batch = case.make()
    except Exception as error:
        return tell({**row, "reason": f"cannot be made: {told(error)}"})
    try:
        for stage in stages(without_randomness(module.train()), loss, batch, plan):
            row |= stage
            tell(row)
    except PlancError as error:
        tell({**row, "reason": str(error).splitlines()[0][:300]})
    except Exception as error:
        tell({**row, "reason": told(error)})


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def stages(module: Any, loss: Any, batch: Any, plan: bool) -> Iterator[dict[str, Any]]:
    """What each stage adds to the row: export, the unplanned step against eager torch, the planned one against it."""
    import copy

    import onnxruntime as ort
    from onnx import numpy_helper

    from planc.graph import annotations
    from planc.runtime.ort.sessions import faithful_options
    from planc.torch.batch import batch_of
    from planc.torch.export import exported
    from planc.training.step_options import PLAIN

    reference, wide, taken = copy.deepcopy(module), copy.deepcopy(module), batch_of(batch)
    made = exported(module, loss, taken, optimizer_of(module), "cpu", PLAIN)
    yield {"exported": True}
    pairs = {k: str(v) for k, v in annotations.read_json(made.model, annotations.STATE).items()}
    state = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer if t.name in pairs}
    read = {i.name for i in made.model.graph.input}
    feeds = {n: t.numpy() for n, t in zip(made.inputs, taken.tensors, strict=True) if n in read}
    session = ort.InferenceSession(
        made.model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"]
    )
    outputs, steps = [o.name for o in session.get_outputs()], list[dict[str, Any]]()
    for _ in range(STEPS):
        steps.append(dict(zip(outputs, session.run(None, {**feeds, **state}), strict=True)))
        state = {name: steps[-1][following] for name, following in pairs.items()}
    del session
    eager = trained(reference, loss, batch)
    ours = [float(step["loss"]) for step in steps], state
    yield {"worst_difference": difference(ours, eager), "torch_difference": rounding(wide, loss, batch, eager)}
    if plan:
        yield from planned(made.model, feeds, steps)
    else:
        yield {"reason": UNPLANNED}


def planned(model: Any, feeds: dict[str, Any], steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The plan at half the peak, and whether every output and state of its steps has the unplanned one's bits."""
    import planc
    from planc.errors import InfeasibleBudgetError

    try:
        found = planc.compile(model, budget=BUDGET, device="cpu", time_limit=2.0)
    except InfeasibleBudgetError:
        found = planc.compile(model, budget="min", device="cpu", time_limit=2.0)
    share = 100 * found.memory.budget_bytes / found.memory.liveness_peak_bytes
    yield {"planned": True, "budget_percent": round(share, 1)}
    with planc.load(found, model) as step:
        names = [name for name in steps[0] if name in {*step.output_names, *step.imported.state_names.values()}]
        unlike = 0
        for expected in steps:
            values = step.run(names, {name: feeds[name] for name in step.feed_names})
            unlike += sum(v.tobytes() != expected[n].tobytes() for n, v in zip(names, values, strict=True))
    yield {"bits_equal": unlike == 0, "reason": f"{unlike} tensors differ from the unplanned step" if unlike else ""}


def empty(case: Any) -> dict[str, Any]:
    return {
        "group": case.group,
        "model": case.name,
        "exported": False,
        "worst_difference": None,
        "torch_difference": None,
        "planned": False,
        "budget_percent": None,
        "bits_equal": None,
        "reason": "",
    }


def in_a_process(case: Any, plan: bool) -> dict[str, Any]:
    """The row, measured in a process of its own, with what there is of it after the time limit or a crash."""
    forked = multiprocessing.get_context("fork")
    receiving, sending = forked.Pipe(duplex=False)
    child = forked.Process(target=limited, args=(case, plan, sending.send))
    child.start()
    sending.close()
    row = empty(case)
    with contextlib.suppress(EOFError):
        while True:
            row = receiving.recv()
    child.join()
    if child.exitcode == -signal.SIGXCPU:
        row["reason"] = f"not done within {SECONDS} s of computing"
    elif child.exitcode:
        row["reason"] = f"the process ended with {child.exitcode}"
    return row


def limited(case: Any, plan: bool, tell: Callable[[dict[str, Any]], None]) -> None:
    """`measured`, in computing time of this process, which other work on the machine does not use up."""
    began = resource.getrusage(resource.RUSAGE_SELF)
    limit = SECONDS + int(began.ru_utime + began.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
    measured(case, plan, tell)


def store(row: dict[str, Any]) -> None:
    """Put one row in its place in the results."""
    with (RESULTS.parent / ".coverage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = {(r["group"], r["model"]): r for r in known()}
        rows[row["group"], row["model"]] = row
        RESULTS.write_text(json.dumps(sorted(rows.values(), key=lambda r: (r["group"], r["model"])), indent=1) + "\n")


def known() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def preload(groups: set[str]) -> None:
    """Import what every row of these groups would import again, each in its own process."""
    for name in (
        "torch.distributed.tensor",
        "torch.testing",
        *(LIBRARIES[g] for g in sorted(groups & LIBRARIES.keys())),
    ):
        importlib.import_module(name)


def finished(redo: bool, refused: bool, plan: bool) -> set[tuple[str, str]]:
    """Group and model of the rows that stay as they are."""
    again = (lambda r: bool(r["reason"])) if refused else (lambda r: plan and r["reason"] == UNPLANNED)
    return set() if redo else {(r["group"], r["model"]) for r in known() if not again(r)}


def work(only: str, part: str, done: set[tuple[str, str]], plan: bool) -> None:
    """Measure every case of this part that is not done."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import planc.torch  # noqa: F401 - once, for all the processes that follow
    from benchmarks.coverage_cases import language, others, vision

    first, count = (int(n) for n in part.split("/"))
    listed = [c for source in (others, language, vision) for c in source.cases()][first::count]
    wanted = [c for c in listed if (c.group, c.name) not in done and (not only or only in (c.group, c.name))]
    preload({case.group for case in wanted})
    for case in wanted:
        row = in_a_process(case, plan)
        store(row)
        print(json.dumps(row), flush=True)


def page() -> None:
    """The table as a page."""
    rows, lines = known(), HEAD.splitlines()
    for group in dict.fromkeys(r["group"] for r in rows):
        own = [r for r in rows if r["group"] == group]
        exported, planned, equal = (sum(bool(r[k]) for r in own) for k in ("exported", "planned", "bits_equal"))
        waiting = sum(r["reason"] == UNPLANNED for r in own)
        lines += [
            f"## {group}",
            "",
            f"{len(own)} models: {exported} exported, {planned} planned, {equal} of equal bits, {waiting} not planned yet.",
            "",
            "| model | exported | difference | torch | planned | bits | reason |",
            "|---|---|---|---|---|---|---|",
        ]
        for r in own:
            marks = ["yes" if r[k] else "no" for k in ("exported", "bits_equal")]
            worst, rounded = ("" if r[k] is None else f"{r[k]:.1e}" for k in ("worst_difference", "torch_difference"))
            share = f"{r['budget_percent']:.0f} %" if r["planned"] else "no"
            reason = r["reason"].replace("|", "\\|")
            lines.append(f"| {r['model']} | {marks[0]} | {worst} | {rounded} | {share} | {marks[1]} | {reason} |")
        lines.append("")
    PAGE.write_text("\n".join(lines))


def main() -> None:
    """Enter the environment, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a group or a model")
    parser.add_argument("--part", default="0/1", help="which part of how many")
    parser.add_argument("--redo", action="store_true", help="measure again what has a row")
    parser.add_argument("--refused", action="store_true", help="measure again what has a reason")
    parser.add_argument("--export-only", action="store_true", help="leave plans to a later run")
    parser.add_argument("--page", action="store_true", help="write the page from the rows that are there")
    options = parser.parse_args()
    if options.page:
        return page()
    # This file's folder is no place to import from: another package is called like this file.
    sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]
    from benchmarks import model_libraries

    model_libraries.enter(__file__)
    plan = not options.export_only
    work(options.only, options.part, finished(options.redo, options.refused, plan), plan)
    return page()


if __name__ == "__main__":
    main()
