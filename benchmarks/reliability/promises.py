"""What budgets, time limits and `--deterministic` promise, over many compilations."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import onnx
from support.costs import made_up_costs
from support.random_steps import random_step
from support.zoo_networks import MOMENTUM, SMALL, small_step

import planc.clock
from benchmarks.reliability.count import Count
from planc.compiler.history import _known
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.costs.store import write_costs
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import ImportedModel, import_model

_NETWORKS = ("gpt2", "squeezenet", "resnet18", "mobilenet_v2", "bert_base", "googlenet", "shufflenet", "densenet121")
_SHARES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Budgets between the least and the one within which nothing is given up, as shares of the way."""


def kept(scale: int) -> dict[str, Count]:
    """Time limits are kept within a tenth and a second, by processor time of all threads, which no other process of the
    machine lengthens: it is no less than the time that a quiet machine would take."""
    with _processor_time():
        return {"time limits kept": _kept(scale)}


def punctual(scale: int) -> dict[str, Count]:
    """The same by wall time, for a machine that does nothing else."""
    return {"time limits kept, by wall time": _kept(scale)}


def _kept(scale: int) -> Count:
    count, worst, budgets = Count(), 0.0, ("min", "1KiB", "35%", "60%", "90%")
    for name in _NETWORKS if scale >= 10 else _NETWORKS[:2]:
        job = _job(name)
        for budget in budgets:  # compiles and loads what it needs for the first time, which no limit is for
            _spent(job, CompileOptions(budget, "mip", 1.0))
        for limit in (1.0, 2.0, 5.0) if scale >= 10 else (1.0,):
            for budget in budgets:
                seconds, cores = _spent(job, CompileOptions(budget, "mip", limit))
                over, worst = seconds - limit, max(worst, seconds - limit)
                late = seconds > 1.1 * limit + 1
                says = f"{name} {budget}: {over:.1f} s more than {limit:.0f}, on {cores:.2f} processors on average"
                count.add(says if late else None)
    count.notes["worst excess in ms"] = round(1000 * worst)
    return count


def monotone(scale: int) -> dict[str, Count]:
    """A larger budget never predicts a slower step than a smaller one of the same step did, in one process."""
    count = Count()
    for name in _NETWORKS[: 2 * scale]:
        job = _job(name)
        low, high = job.budget_bytes("min"), job.roomy_bytes
        before: int | None = None
        for share in _SHARES if scale < 10 else [s / 30 for s in range(31)]:
            budget = str(low + int(share * (high - low)))
            step_ns = job.compile(CompileOptions(budget, "mip", 0.5)).plan.prediction.step_ns
            slower = before is not None and step_ns > before
            count.add(f"{name}: {step_ns} ns at {budget} bytes, {before} ns with less" if slower else None)
            before = step_ns
    return {"larger budgets": count}


def feasible(scale: int) -> dict[str, Count]:
    """`--budget min`, and the budget that the refusal of a smaller one names, are feasible when they are tried, by
    another job that remembers nothing but the number, with another seed: on random networks and the zoo's, on a CPU and
    on a card, where sessions take memory too, by planc's own policy and by another one."""
    count = Count()
    names = list(SMALL) if scale >= 10 else []
    imports: list[Callable[[], ImportedModel]] = [lambda seed=seed: random_step(seed) for seed in range(4 * scale)]  # type: ignore[misc]
    imports += [lambda name=name: import_model(small_step(name, MOMENTUM)) for name in names]  # type: ignore[misc]
    for serial, build in enumerate(imports):
        imported = build()
        for kind in ("cpu", "cuda"):
            for solver in ("mip", _OTHERS[serial % len(_OTHERS)]):
                fault = _infeasible(imported, kind, solver)
                count.add(None if fault is None else f"network {serial}, {kind}, {solver}: {fault}")
    count.notes["networks"] = len(imports)
    return {"least budgets, as min and as a refusal names them": count}


_OTHERS = ("sqrt-n", "keep-all", "vdnn-all", "checkmate", "dtr", "revolve")


def _infeasible(imported: ImportedModel, kind: str, solver: str) -> str | None:
    """What is wrong with the least budgets of a step, None where nothing is."""
    limit = 5.0 if solver == "checkmate" else 0.3  # its program has no schedule before it is solved
    try:
        _of_kind(imported, kind).compile(CompileOptions("1KiB", solver, limit))
        return "a kilobyte was enough"
    except InfeasibleBudgetError as error:
        named = error.minimum_budget_bytes
    except SolverTimeoutError as error:
        return f"1KiB: {error}"
    _known.clear()  # as another process would
    for budget in (f"{named}B", "min"):
        try:
            plan = _of_kind(imported, kind).compile(CompileOptions(budget, solver, limit, seed=5)).plan
        except (InfeasibleBudgetError, SolverTimeoutError) as error:
            return f"{budget}: {error}"
        if plan.memory.budget_bytes > named:
            return f"min is {plan.memory.budget_bytes} bytes, {named} were named"
    return None


def _of_kind(imported: ImportedModel, kind: str) -> CompileJob:
    costs = made_up_costs(imported.graph, scratch=8 << 10)
    sessions = 64 << 10 if kind == "cuda" else 0
    device = msgspec.structs.replace(costs.device, kind=kind, session_bytes=sessions)
    return CompileJob.of(imported, msgspec.structs.replace(costs, device=device))


def deterministic(scale: int) -> dict[str, Count]:
    """`--deterministic` gives one plan, byte for byte, over processes with as many hash seeds: two in the short form, in
    longer ones `scale` of each network and budget, 20 from 10 on."""
    count, runs = Count(), 20 if scale >= 10 else max(2, scale)
    cases = [(name, budget) for name in _NETWORKS for budget in ("min", "60%")] if scale >= 3 else [("gpt2", "60%")]
    with tempfile.TemporaryDirectory() as folder:
        for name, budget in cases:
            model, costs = Path(folder) / f"{name}.onnx", Path(folder) / "costs.json"
            onnx.save(small_step(name, MOMENTUM), model)
            write_costs(made_up_costs(import_model(model).graph, scratch=256 << 10), costs)
            first = _compiled(model, costs, budget, 0)
            for seed in range(1, runs):
                same = _compiled(model, costs, budget, 7919 * seed) == first
                count.add(None if same else f"{name} {budget}: another plan with hash seed {7919 * seed}")
    count.notes["networks and budgets"] = len(cases)
    return {"plans that are to be the same again": count}


def _compiled(model: Path, costs: Path, budget: str, hash_seed: int) -> bytes:
    """The plan's file as a process with that hash seed writes it."""
    plan = model.with_suffix(".plan.json")
    options = ["--costs", costs, "--budget", budget, "--time-limit", "3", "--deterministic", "-o", plan]
    command = [sys.executable, "-c", "from planc.cli.main import main; main()", "compile", model, *options]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PLANC_CACHE_DIR": str(model.parent)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
    return plan.read_bytes()


def _job(name: str) -> CompileJob:
    imported = import_model(small_step(name, MOMENTUM))
    return CompileJob.of(imported, made_up_costs(imported.graph, scratch=256 << 10))


def _spent(job: CompileJob, options: CompileOptions) -> tuple[float, float]:
    """Seconds, as planc's clock counts them, that a compilation from known costs takes, and how many processors worked on
    it on average: fewer than one where the machine had others to serve."""
    started, processor = planc.clock.time.monotonic(), time.process_time()
    with suppress(InfeasibleBudgetError, SolverTimeoutError):
        CompileJob.of(job.imported, job.costs).compile(options)
    seconds = planc.clock.time.monotonic() - started
    return seconds, (time.process_time() - processor) / seconds


class _ProcessorTime:
    monotonic = staticmethod(time.process_time)


@contextmanager
def _processor_time() -> Iterator[None]:
    """Let planc's clock count the processor time of this process."""
    planc.clock.time = _ProcessorTime  # type: ignore[attr-defined]
    try:
        yield
    finally:
        planc.clock.time = time  # type: ignore[attr-defined]
