"""PyTorch and planc side by side on one card: memory, time, bits; a process a row, the two in turns.

    PYTHONPATH=SITE python3 benchmarks/gpu/head_to_head.py --out FOLDER [--steps r50-32,gpt2] [--precisions tf32,bf16]
        [--systems torch,planc] [--shares 100,75,50,33,25] [--seconds 20] [--peak STEP.PRECISION=MIB ...]

planc's budgets are shares of what torch.compile allocates for the step; without torch rows, `--peak` says how much that is.
Writes head_to_head.json, a list of rows: step, precision, system, mode, asked_mib, driver_mib, ms, predicted_ms, bound_ms,
planning_s, bits_equal, repeatable. `ms` is the median wall-clock time of a step whose batch is on the card.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from networks import CASES, Case, import_case
from run_plans import MIB, alone, median_ms, used

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.profiling.profile import profile
from planc.runtime.measure import measure, synthetic_feeds
from planc.runtime.step import load

PRECISIONS = {"tf32": "float32", "bf16": "bfloat16"}
MODES = ("eager", "compile", "compile-graph")
REPEATS = 5
"""Steps from the same state, whose bits are compared."""

Row = dict[str, Any]


# --- PyTorch


def torch_step(step: str, precision: str, mode: str) -> Callable[[], None]:
    """One whole step of torchvision's or transformers' network, optimizer included."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    forward, parameters = (_resnet if step.startswith("r50") else _gpt2)(step)
    rate = {"lr": 0.01, "momentum": 0.9, "foreach": True} if step.startswith("r50") else {"lr": 1e-4}
    optimizer: Any = (
        torch.optim.SGD(parameters, **rate)
        if step.startswith("r50")
        else torch.optim.AdamW(parameters, fused=True, capturable=True, **rate)
    )

    def loss() -> Any:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            return forward()

    compiled = loss if mode == "eager" else torch.compile(loss)

    def run() -> None:
        compiled().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=mode != "compile-graph")

    return run


def _resnet(step: str) -> tuple[Callable[[], Any], Any]:
    import torch
    import torchvision

    batch = int(step.removeprefix("r50-"))
    model = torchvision.models.resnet50().cuda().train().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    y, score = torch.randint(0, 1000, (batch,), device="cuda"), torch.nn.CrossEntropyLoss()
    return lambda: score(model(x).float(), y), list(model.parameters())


def _gpt2(_: str) -> tuple[Callable[[], Any], Any]:
    import torch
    import transformers

    settings = transformers.GPT2Config(use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    model = transformers.GPT2LMHeadModel(settings).cuda().train()
    x = torch.randint(0, settings.vocab_size, (8, 1024), device="cuda")
    return lambda: model(input_ids=x, labels=x).loss, list(model.parameters())


def torch_row(step: str, precision: str, mode: str) -> Row:
    """Time and memory of one mode; runs in a process of its own."""
    import torch

    before = used()
    run = torch_step(step, precision, mode)
    for _ in range(4):
        run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    if mode == "compile-graph":
        run = _graphed(run)

    def finished() -> None:
        run()
        torch.cuda.synchronize()

    ms = median_ms(finished)
    return {
        "asked_mib": torch.cuda.max_memory_allocated() // MIB, "driver_mib": (used() - before) // MIB, "ms": ms,
        "predicted_ms": None, "bound_ms": None, "planning_s": None, "bits_equal": None, "repeatable": None,
    }  # fmt: skip


def _graphed(run: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


# --- planc


def case_of(step: str, precision: str) -> Case:
    """The zoo's network of a step in a precision."""
    case = CASES[step]
    return Case(case.network, case.options, case.optimizer, PRECISIONS[precision])


def planc_row(imported: ImportedModel, plan: Plan) -> Row:
    """Time, memory and bits of one plan; runs in a process of its own."""
    before = used()
    with load(plan, imported, replay=False) as step:
        feeds = synthetic_feeds(imported.graph, 0)
        step(feeds)
        driver = (used() - before) // MIB
        executor = step._executor
        launched = median_ms(executor.run_step)
        executor._queue = step.device.capture(executor._queue_step)
        replayed = median_ms(executor.run_step)
        repeatable = _repeats(step, feeds)
    with load(plan, imported) as step:
        equal = measure(step, 3, 0, compare=True).bitwise_equal
    return {
        "asked_mib": plan.memory.budget_bytes // MIB, "driver_mib": driver, "ms": min(launched, replayed),
        "predicted_ms": round(plan.prediction.step_ns / 1e6, 3),
        "bound_ms": round(plan.certificate.lower_bound_ns / 1e6, 3),
        "planning_s": plan.certificate.solve_s, "bits_equal": equal, "repeatable": repeatable,
    }  # fmt: skip


def _repeats(step: Any, feeds: Any) -> bool:
    """Whether steps from one state always give the same loss and state, bit for bit."""
    start, seen = step.state(), set()
    for _ in range(REPEATS):
        step.set_state(start)
        outputs = step(feeds)
        seen.add(b"".join([*(v.tobytes() for v in outputs.values()), *(v.tobytes() for v in step.state().values())]))
    return len(seen) == 1


def planned(imported: ImportedModel, table: CostTable, budget: int, seconds: float) -> Plan:
    """A plan within `budget` MiB."""
    return compile_model(imported, table, CompileOptions(f"{budget}MiB", time_limit_s=seconds)).plan


def profiled(imported: ImportedModel) -> CostTable:
    """The cost table of this card."""
    return profile(imported, "cuda")


# --- rows


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Every row, PyTorch's of a step before planc's, whose budgets follow from them."""
    peaks = dict(entry.split("=") for entry in options.peak)
    for step in options.steps.split(","):
        for precision in options.precisions.split(","):
            head = {"step": step, "precision": precision}
            if "torch" in options.systems:
                for mode in MODES:
                    row = {**head, "system": "torch", "mode": mode, **alone(partial(torch_row, step, precision, mode))}
                    if mode == "compile" and "asked_mib" in row:
                        peaks[f"{step}.{precision}"] = row["asked_mib"]
                    yield row
            if "planc" in options.systems:
                yield from _planc_rows(head, int(peaks[f"{step}.{precision}"]), options)


def _planc_rows(head: Row, peak: int, options: argparse.Namespace) -> Iterator[Row]:
    imported = import_case(case_of(head["step"], head["precision"]))
    begin = time.perf_counter()
    found = alone(lambda: {"table": profiled(imported)})
    if "table" not in found:
        yield {**head, "system": "planc", "mode": "profile", **found}
        return
    print(head, f"profiled in {time.perf_counter() - begin:.1f} s", flush=True)
    for share in options.shares.split(","):
        mode = {**head, "system": "planc", "mode": f"{share} %"}
        try:
            plan = planned(imported, found["table"], peak * int(share) // 100, options.seconds)
        except Exception as error:
            yield {**mode, "FAILED": str(error)[:300]}
            continue
        row = alone(partial(planc_row, imported, plan))
        row.pop("context_MiB", None)
        yield {**mode, **row}


def main() -> None:
    """Print and write every row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--steps", default="r50-32,gpt2")
    parser.add_argument("--precisions", default="tf32,bf16")
    parser.add_argument("--systems", default="torch,planc")
    parser.add_argument("--shares", default="100,75,50,33,25")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--peak", nargs="*", default=[])
    options = parser.parse_args()
    found: list[Row] = []
    for row in rows(options):
        row.pop("context_MiB", None)
        found.append(row)
        print(json.dumps(row), flush=True)
        (options.out / "head_to_head.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
