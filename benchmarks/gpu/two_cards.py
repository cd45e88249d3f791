"""One card and two: bits, time, memory, hidden exchanges, and what a lost rank leads to. PyTorch's DDP beside them.

    PYTHONPATH=SITE python3 benchmarks/gpu/two_cards.py --out FOLDER all [--rows FILE] [--seconds 1500]

Everything, a row a measurement, the most wanted first. A row is written to FILE (`results/two_cards.jsonl`) as soon as it
is there; what the file has is not measured again, but for rows that failed. So the command goes on where it was cut off,
and none begins when `--seconds` are over. One kind of row alone:

    ... link                                       the way between the cards
    ... ctas                                       the same by few multiprocessors
    ... bits r18-small gpt-small bert-small        two ranks against one process that accumulates two micro-batches
    ... shards r18-small gpt-small bert-small      the same with optimizer state divided between the ranks
    ... plan CASE --card K [--budgets 150,75]      profile, and compile for one rank and for two, the same bytes a card
    ... run CASE                                   every plan of the case: ms, driver's MiB, predicted ms, hidden share
    ... fail r18-small                             one rank is killed: what the other says, and when
    ... torch CASE [--precision tf32]              torch.compile of DDP on one card and on two, launched

These write NAME.json into the folder. Batches are on the card; `ms` is the median wall-clock time of a step.
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from card_networks import CASES, Case
from run_plans import MIB, used

RANKS, WARM, TIMED, BIT_STEPS = 2, 5, 30, 3

SMALL, LARGE = ("r18-small", "gpt-small", "bert-small"), ("gpt2", "r50-32")
ROWS = (
    ("link", ""),
    *(("bits", case) for case in SMALL),
    *((what, case) for case in LARGE for what in ("plan", "run", "torch")),
    *(("shards", case) for case in SMALL),
    ("fail", "r18-small"),
    ("ctas", ""),
)
"""What `all` measures, in this order."""


def model_of(case: Case, **options: Any) -> onnx.ModelProto:
    from planc.training import differentiate
    from planc.training.step_options import StepOptions
    from planc.zoo import build_forward

    forward = build_forward(case.network, case.options)
    return differentiate(
        forward.model, loss=forward.loss, optimizer=case.optimizer, device="cuda", precision=case.precision,
        parameters=forward.parameters, options=StepOptions(**options),
    )  # fmt: skip


def started(ranks: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """This script once for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = []
    for rank in range(ranks):
        launched = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {
            **os.environ,
            **{name: str(value) for name, value in launched.items()},
            "PLANC_RANK_TIMEOUT": "60",
        }
        command = [sys.executable, __file__, *arguments]
        found.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return found


def answers(processes: list[subprocess.Popen[str]], limit_s: float = 150) -> list[Any]:
    """What each printed last, as JSON; its exit code where that is none."""
    found: list[Any] = []
    for process in processes:
        try:
            lines = process.communicate(timeout=limit_s)[0].strip().splitlines()
            found.append(json.loads(lines[-1]) if lines and not process.returncode else {"exit": process.returncode})
        except (subprocess.TimeoutExpired, ValueError) as error:
            process.kill()
            found.append({"FAILED": str(error)[:200]})
    return found


# --- the way between the cards


def link(out: Path) -> Any:
    from planc.profiling.exchange import measure_exchange
    from planc.profiling.target import target_of

    found = measure_exchange(RANKS, target_of("cuda"))
    (out / "exchange.json").write_bytes(msgspec.json.encode(found))
    return msgspec.to_builtins(found)


def ctas(_out: Path) -> Any:
    """The same where NCCL may take few multiprocessors: slower sums, and less in the way of what computes beside."""
    from planc.profiling.exchange import measure_exchange
    from planc.profiling.target import target_of

    found = {}
    for most in (2, 4, 8, 16):
        os.environ["NCCL_MAX_CTAS"] = str(most)
        found[most] = msgspec.to_builtins(measure_exchange(RANKS, target_of("cuda")))
    return found


# --- bits


def bits(out: Path, name: str, kind: str) -> Any:
    """Of the `kind` bits every rank has the same step, of shards each its own."""
    from planc.compiler.job import compile_model
    from planc.compiler.options import CompileOptions
    from planc.importer.import_model import import_model

    sharded = kind == "shards"
    for rank in range(RANKS if sharded else 1):
        model = model_of(CASES[name], ranks=RANKS, bucket_bytes=2 << 20, sharded=sharded, rank=rank)
        imported = import_model(model, fused=True)
        onnx.save(model, out / f"{name}.{kind}.{rank}.onnx")
        costs = one_engine(costs_of(imported, out))
        plan = compile_model(imported, costs, CompileOptions("max" if sharded else "80%", time_limit_s=4)).plan
        plan.save(out / f"{name}.{kind}.{rank}.plan.json")
    ranks = answers(started(RANKS, "--out", str(out), f"{kind}-rank", name))
    alone = answers(started(1, "--out", str(out), f"{kind}-alone", name))[0]
    same = ranks[0].get("state") == alone.get("state") is not None
    return {"case": name, "bits_equal": same, "exchanges": len(plan.exchanges), "ranks": ranks, "alone": alone}


def one_engine(table: Any) -> Any:
    """The costs with the fastest engine of each call alone, which then computes it in any form and in any step."""
    return msgspec.structs.replace(table, engines={name: engines[:1] for name, engines in table.engines.items()})


def costs_of(imported: Any, out: Path, card: int = 0) -> Any:
    """Measured on a card, the exchanges by the way between the cards that was measured before."""
    from planc.costs.table import ExchangeLink
    from planc.profiling.profile import profile

    table = profile(imported, f"cuda:{card}")
    if imported.graph.ranks == 1:
        return table
    between = msgspec.json.decode((out / "exchange.json").read_bytes(), type=ExchangeLink)
    return msgspec.structs.replace(table, exchange=between)


def state_hashes(state: dict[str, Any]) -> dict[str, Any]:
    whole = hashlib.sha256()
    for name in sorted(state):
        whole.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
    return {
        "state": whole.hexdigest(),
        "finite": all(bool(np.isfinite(np.asarray(v, np.float64)).all()) for v in state.values()),
    }


def bits_rank(out: Path, name: str, kind: str) -> Any:
    """Hashes of the state that is saved, which has all ranks' parts."""
    from planc.runtime.measure import synthetic_feeds
    from planc.runtime.state import read_state
    from planc.runtime.step import load

    own, saved = int(os.environ["RANK"]) if kind == "shards" else 0, out / f"{name}.{kind}.safetensors"
    with load(out / f"{name}.{kind}.{own}.plan.json", out / f"{name}.{kind}.{own}.onnx") as step:
        for index in range(BIT_STEPS):
            step(synthetic_feeds(step.imported.graph, index * RANKS + step.rank))
        step.save_state(saved)
        return {**state_hashes(read_state(saved)), "replay_refused": getattr(step.device, "capture_refused", "")}


def bits_alone(out: Path, name: str, kind: str) -> Any:
    """Of one process, by the engines of the ranks' plan."""
    from planc.importer.import_model import import_model
    from planc.plan.plan import Plan
    from planc.runtime.measure import UnplannedStep, synthetic_feeds

    imported = import_model(model_of(CASES[name], accumulate=RANKS), fused=True)
    imported = replace(imported, engines=Plan.load(out / f"{name}.{kind}.0.plan.json").engine_table)
    graph, initial = imported.graph, imported.file.initial_values
    first = tuple(t for t in graph.inputs if graph.tensors[t].name in imported.micro_batches)
    step = UnplannedStep(imported, "cuda")
    for index in range(BIT_STEPS):
        feeds = {n: np.asarray(v) for n, v in initial.items() if n in graph.hyperparameters}
        for rank in range(RANKS):
            single = synthetic_feeds(replace(graph, inputs=first), index * RANKS + rank)
            feeds |= {imported.micro_batches[n][rank]: v for n, v in single.items()}
        step(feeds)
    return state_hashes(step.state)


# --- time


def plan_case(out: Path, name: str, card: int, budgets: str) -> Any:
    from planc.compiler.job import CompileJob
    from planc.compiler.options import CompileOptions
    from planc.importer.import_model import import_model

    rows, peak = [], 0
    for ranks in (1, RANKS):
        model = model_of(CASES[name], ranks=ranks)
        onnx.save(model, out / f"{name}.{ranks}.onnx")
        imported, begun = import_model(model, fused=True), time.perf_counter()
        job, spent = CompileJob.of(imported, costs_of(imported, out, card)), time.perf_counter() - begun
        peak = peak or job.roomy_bytes
        for share in budgets.split(","):
            options = CompileOptions(str(peak * int(share) // 100), time_limit_s=8)
            try:
                plan = job.compile(options).plan
            except Exception as error:
                rows.append({"ranks": ranks, "share": share, "FAILED": str(error)[:300]})
                continue
            plan.save(out / f"{name}.{ranks}.{share}.plan.json")
            rows.append(
                {"ranks": ranks, "share": share, "predicted_ms": plan.prediction.step_ns / 1e6, "profile_s": spent}
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def run_case(out: Path, name: str) -> Any:
    from planc.plan.plan import Plan

    rows = []
    for path in sorted(out.glob(f"{name}.[12].*.plan.json")):
        plan, ranks = Plan.load(path), int(path.name.split(".")[-4])
        found = answers(started(ranks, "--out", str(out), "run-rank", path.name))
        row = {"plan": path.name, "ranks": ranks, "budget_mib": plan.memory.budget_bytes // MIB, **found[0]}
        row |= {"predicted_ms": round(plan.prediction.step_ns / 1e6, 3), "other": found[1:]}
        if ranks > 1:  # a rank that comes first waits for the others, too
            row["hidden"] = max(each.get("hidden", -1) for each in found)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def run_rank(out: Path, file: str) -> Any:
    from planc.costs.table import ExchangeLink
    from planc.plan.plan import Plan
    from planc.runtime.cuda.device import CudaDevice

    plan, model = Plan.load(out / file), out / f"{file.rpartition('.plan')[0].rpartition('.')[0]}.onnx"
    found = timed(plan, model)
    if plan.ranks == 1:
        return found
    between = msgspec.json.decode((out / "exchange.json").read_bytes(), type=ExchangeLink)
    total = sum(between.exchange_ns(e.bytes) for e in plan.exchanges) / 1e6
    waited = waiting_ms(plan, model)
    CudaDevice.exchange = lambda *_: None  # type: ignore[method-assign]
    silent = timed(plan, model)["ms"]
    return {
        **found,
        "without_exchange_ms": silent,
        "exchange_ms": round(total, 3),
        "waited_ms": waited,
        "hidden": round(1 - waited / total, 3),
    }


def waiting_ms(plan: Any, model: Path) -> float:
    """How long the compute stream stands still for exchanges, in a launched step: by events around each such wait."""
    from planc.runtime.cuda.device import CudaDevice
    from planc.runtime.cuda.driver import call, elapsed_ns, new_event
    from planc.runtime.device import Engine
    from planc.runtime.measure import synthetic_feeds
    from planc.runtime.step import load

    record, wait, sums, around = CudaDevice.record, CudaDevice.wait, set[int](), list[tuple[Any, Any]]()

    def recorded(device: CudaDevice, engine: Engine) -> Any:
        event = record(device, engine)
        if engine is Engine.EXCHANGE:
            sums.add(id(event))
        else:
            sums.discard(id(event))  # events are used again
        return event

    def waited(device: CudaDevice, engine: Engine, event: Any) -> None:
        if engine is not Engine.COMPUTE or id(event) not in sums:
            wait(device, engine, event)
            return
        begin, end = new_event(timing=True), new_event(timing=True)
        call("cuEventRecord", begin, device._streams[engine])
        wait(device, engine, event)
        call("cuEventRecord", end, device._streams[engine])
        around.append((begin, end))

    CudaDevice.record, CudaDevice.wait = recorded, waited  # type: ignore[method-assign, assignment]
    try:
        with load(plan, model, replay=False) as step:
            step(synthetic_feeds(step.imported.graph, step.rank))
            found = []
            for _ in range(WARM):
                around.clear()
                step._executor.run_step()
                found.append(sum(elapsed_ns(begin, end) for begin, end in around) / 1e6)
    finally:
        CudaDevice.record, CudaDevice.wait = record, wait  # type: ignore[method-assign]
    return round(float(np.median(found)), 3)


def timed(plan: Any, model: Path) -> dict[str, Any]:
    from planc.runtime.cuda.driver import Context
    from planc.runtime.measure import synthetic_feeds
    from planc.runtime.step import load

    context = Context(int(os.environ["LOCAL_RANK"]))
    before = used()
    with load(plan, model) as step:
        feeds, times = synthetic_feeds(step.imported.graph, step.rank), []
        step(feeds)
        driver = used() - before
        for _ in range(WARM + TIMED):
            begun = time.perf_counter()
            step._executor.run_step()
            times.append((time.perf_counter() - begun) * 1e3)
        memory, refused = plan.memory, step.device.capture_refused
    context.close()
    planned = memory.slab_bytes + memory.scratch_bytes + memory.session_bytes
    return {
        "ms": round(float(np.median(times[WARM:])), 3), "driver_mib": driver // MIB, "plan_mib": planned // MIB,
        "replay_refused": refused,
    }  # fmt: skip


# --- a lost rank


def fail(out: Path, name: str) -> Any:
    processes = started(RANKS, "--out", str(out), "fail-rank", name)
    return {"ranks": answers(processes)}


def fail_rank(out: Path, name: str) -> Any:
    from planc.errors import RankError
    from planc.runtime.measure import synthetic_feeds
    from planc.runtime.step import load

    with load(out / f"{name}.bits.0.plan.json", out / f"{name}.bits.0.onnx") as step:
        feeds = synthetic_feeds(step.imported.graph, step.rank)
        for index in range(200):
            begun = time.perf_counter()
            if index == 20 and step.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                step(feeds)
            except RankError as error:
                return {"said": str(error), "step": index, "after_s": round(time.perf_counter() - begun, 2)}
    return {"said": ""}


# --- PyTorch


def torch_case(out: Path, name: str, precision: str) -> Any:
    rows = [answers(started(n, "--out", str(out), "torch-rank", name, "--precision", precision))[0] for n in (1, RANKS)]
    return [{"ranks": n, **row} for n, row in zip((1, RANKS), rows, strict=True)]


def torch_rank(_out: Path, name: str, precision: str) -> Any:
    import torch
    import torch.distributed as dist
    import torch_steps

    local, size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(local)
    if size == 1:
        run = torch_steps.build(name, precision, "compile")
    else:
        dist.init_process_group("nccl", device_id=torch.device("cuda", local))
        parallel = partial(torch.nn.parallel.DistributedDataParallel, device_ids=[local], gradient_as_bucket_view=True)
        run = torch_steps.build(name, precision, "compile", wrap=parallel)
    times = []
    for _ in range(WARM + TIMED):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1e3)
    return {"ms": round(float(np.median(times[WARM:])), 3), "mib": torch.cuda.max_memory_allocated() // MIB}


# --- all of it


NEEDS = {
    "plan": ("link", "exchange.json"),
    "bits": ("link", "exchange.json"),
    "shards": ("link", "exchange.json"),
    "run": ("plan", "{case}.*.plan.json"),
    "fail": ("bits", "{case}.bits.*.json"),
}
"""What a row takes from the folder, and which row makes that."""


def every_row(out: Path, rows: Path, seconds: float, arguments: list[str]) -> None:
    """Measure what `rows` lacks."""
    ends = time.monotonic() + seconds
    known = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    done = {(row["what"], row["case"]) for row in known if not failed(row["what"], row["found"])}
    for what, case in ROWS:
        if (what, case) in done:
            continue
        if time.monotonic() > ends:
            sys.exit(f"{seconds:g} s are over; the same command goes on with {what} {case}")
        row = measured(out, what, case, arguments)
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measured(out: Path, what: str, case: str, arguments: list[str]) -> dict[str, Any]:
    """A row, in a process of its own: a card in a state of error is lost with its process."""
    needed, product = NEEDS.get(what, ("", ""))
    if needed and not list(out.glob(product.format(case=case))):  # on a fresh machine, where the row is known
        measured(out, needed, "" if needed == "link" else case, arguments)
    begun = time.monotonic()
    command = [sys.executable, __file__, "--out", str(out), *arguments, what, *filter(None, [case])]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = process.stdout.strip().splitlines()
    found = json.loads(lines[-1]) if lines and not process.returncode else {"exit": process.returncode}
    return {"what": what, "case": case, "seconds": round(time.monotonic() - begun), "found": found}


def failed(what: str, found: Any) -> bool:
    """Whether something in a row was not measured; where a rank is killed, whether the other said nothing."""
    if what == "fail" and "ranks" in found:
        return not any(rank.get("said") for rank in found["ranks"])
    if isinstance(found, list):
        return not found or any(failed(what, each) for each in found)
    if not isinstance(found, dict):
        return False
    return "FAILED" in found or bool(found.get("exit")) or any(failed(what, each) for each in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("what")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--card", type=int, default=0)
    parser.add_argument("--budgets", default="150,75")
    parser.add_argument("--precision", default="tf32")
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "results" / "two_cards.jsonl")
    parser.add_argument("--seconds", type=float, default=1500.0)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, Callable[[str], Any]] = {
        "link": lambda _: link(out), "ctas": lambda _: ctas(out), "fail": lambda c: fail(out, c),
        **{kind: partial(bits, out, kind=kind) for kind in ("bits", "shards")},
        **{f"{kind}-rank": partial(bits_rank, out, kind=kind) for kind in ("bits", "shards")},
        "plan": lambda c: plan_case(out, c, options.card, options.budgets), "run": lambda c: run_case(out, c),
        "torch": lambda c: torch_case(out, c, options.precision),
        **{f"{kind}-alone": partial(bits_alone, out, kind=kind) for kind in ("bits", "shards")},
        "run-rank": lambda c: run_rank(out, c),
        "fail-rank": lambda c: fail_rank(out, c), "torch-rank": lambda c: torch_rank(out, c, options.precision),
    }  # fmt: skip
    if options.what == "all":
        shared = ["--card", str(options.card), "--budgets", options.budgets, "--precision", options.precision]
        every_row(out, options.rows, options.seconds, shared)
        return
    for case in options.cases or [""]:
        found = jobs[options.what](case)
        text = json.dumps(found)
        print(text, flush=True)
        if not options.what.endswith(("-rank", "-alone")):
            (out / f"{'-'.join(filter(None, (options.what, case)))}.json").write_text(text)


if __name__ == "__main__":
    main()
