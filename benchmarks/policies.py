"""Every policy against planc's own planner: networks of the papers on their cards, at shares of the liveness peak.

    python benchmarks/policies.py run [--networks resnet50,gpt2] [--cards titan-x-maxwell] [--shares 0.8,0.5,0.3,0.2]
                                      [--time-limit 20] [--jobs 2]
    python benchmarks/policies.py smallest [--networks …] [--cards …]       the least budget of each policy
    python benchmarks/policies.py deepest [--solvers layrub,mip]            ResNets of batch 16 within 12 GB
    python benchmarks/policies.py claims                                    what papers say they save, beside planc
    python benchmarks/policies.py published --solvers checkmate,moccasin,mip [--time-limit 60]
    python benchmarks/policies.py table                                     docs/results/policies.md from the results

Results go to benchmarks/results/policies.json, pair by pair; pairs that are there already are left alone, so that a run
that was broken off goes on. Times are those of a roofline (docs/solver.md), never of a card. Gradients of convolutions
are convolutions, without unfolded images: that is how a card's library runs them without workspace.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from planc.compiler.job import CompileJob
from planc.costs.catalogue import estimate
from planc.errors import InfeasibleBudgetError, PlancError, PolicyScopeError, SolverTimeoutError
from planc.importer.import_model import import_model
from planc.importer.save import write_structure
from planc.instances.instance import read_instance
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.report.trials import Effort, Trial, rows_of
from planc.schedule.residency import memory_profile
from planc.schedule.solver import Solution, SolveOptions, load_solver, solve, solver_names
from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer
from planc.zoo import ZooOptions, build_forward

RESULTS = [Path(__file__).parent / "results" / "policies.json"]
"""Where results are, by default."""

NETWORKS = {
    "alexnet": 128,
    "vgg16": 64,
    "googlenet": 128,
    "inception_v4": 32,
    "resnet50": 64,
    "resnet101": 32,
    "resnet152": 32,
    "densenet121": 32,
    "unet": 4,
    "gpt2": 8,
    "bert_base": 32,
}
"""Networks and batch sizes: AlexNet and GoogLeNet of vDNN, VGG-16 of its smaller setting, the others of SuperNeurons'
and later papers."""

EXACT = ("checkmate", "checkmate-lp", "poet", "moccasin", "offmate")
QUICK_S, EXACT_S = 2.0, 10.0
"""Time limits of policies that do not search, where packing takes most of it, and of exact ones."""


@dataclass(frozen=True)
class Pair:
    """A network on a card, with what to do there."""

    network: str
    card: str
    shares: tuple[float, ...]
    solvers: tuple[str, ...]
    time_limit_s: float


def job_of(network: str, card: str, **options: Any) -> CompileJob:
    """The compile job of a zoo network whose weights are never drawn."""
    built = build_forward(network, ZooOptions(**options), values=False)
    step = differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("momentum"), device="cpu", parameters=built.parameters
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{network}.onnx"
        write_structure(step, path)
        imported = import_model(path, fused=True)
    return CompileJob.of(imported, estimate(imported.graph, card))


def rows_of_pair(pair: Pair) -> list[dict[str, Any]]:
    """One row for each solver and share."""
    job = job_of(pair.network, pair.card, batch=NETWORKS[pair.network])
    rows = []
    for share in pair.shares:
        budget = int(job.usual.liveness_peak_bytes * share)
        for name in pair.solvers:
            limit = pair.time_limit_s if name == "mip" else EXACT_S if name in EXACT else QUICK_S
            (row,) = rows_of(job, [Trial(budget, name)], Effort(limit, remember=False))
            rows.append(
                {
                    "network": pair.network,
                    "batch": NETWORKS[pair.network],
                    "card": pair.card,
                    "solver": name,
                    "budget_fraction": share,
                    "status": row.status,
                    "overhead": None if row.overhead is None else round(row.overhead, 6),
                    "slab_bytes": row.slab_bytes,
                    "allocator_bytes": row.allocator_bytes,
                    "needed_bytes": row.minimum_budget_bytes if row.overhead is None else None,
                    "solve_s": round(row.solve_s, 2),
                }
            )
    return rows


def smallest_of_pair(pair: Pair) -> list[dict[str, Any]]:
    """The least budget, to a hundredth of the peak, within which each policy has a schedule (before packing)."""
    job = job_of(pair.network, pair.card, batch=NETWORKS[pair.network])
    problem, peak = job.usual.problem, job.usual.liveness_peak_bytes
    least = minimum_budget(problem)[0] / peak
    rows = []
    for name in pair.solvers:
        low, high, started = least, 4.0 if name == "caffe" else 1.0, time.perf_counter()

        def fits(share: float, name: str = name) -> bool:
            options = SolveOptions(time_limit_s=pair.time_limit_s)
            try:
                solve(load_solver(name), replace(problem, budget_bytes=int(peak * share)), options)
            except InfeasibleBudgetError:
                return False
            return True

        try:
            found = _least(fits, low, high)
        except PlancError:
            continue  # refused: it does not take on such a problem
        rows.append(
            {
                "network": pair.network,
                "card": pair.card,
                "solver": name,
                "smallest_fraction": None if found is None else round(found, 4),
                "layer_alone": round(least, 4),
                "solve_s": round(time.perf_counter() - started, 2),
            }
        )
    return rows


def _least(fits: Any, low: float, high: float) -> float | None:
    """By bisection; None where not even `high` fits."""
    if fits(low + 1e-4):
        return low
    if not fits(high):
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def deepest(solvers: Iterable[str], time_limit_s: float, card: str = "titan-x-maxwell") -> Iterator[dict[str, Any]]:
    """For each solver the deepest ResNet, of the depths 150 · 1.4ᵏ, that it trains at batch 16 within 12 GB, as it is
    found.

    SuperNeurons' network: most blocks lie in the third stage. The schedule counts, before packing.
    """
    alive, depth, budget = list(solvers), 150.0, 12 * 10**9
    while alive and depth < 9_000:
        layers = round(depth / 3) * 3 + 2
        job = job_of("resnet_deep", card, depth=layers, batch=16)
        problem = replace(job.usual.problem, budget_bytes=budget)
        options = SolveOptions(time_limit_s=time_limit_s, patience_s=4 * time_limit_s)
        for name in tuple(alive):
            started = time.perf_counter()
            try:
                solution = solve(load_solver(name), problem, options)
            except PlancError as error:
                print(name, layers, error, flush=True)
                alive.remove(name)
                continue
            yield {
                "solver": name,
                "card": card,
                "budget_bytes": budget,
                "depth": layers,
                "overhead": round(solution.timeline.step_ns / problem.base_duration_ns - 1, 4),
                "keep_all_bytes": job.usual.liveness_peak_bytes,
                "solve_s": round(time.perf_counter() - started, 1),
            }
        depth *= 1.4


CLAIMS = (
    ("vdnn-all", "alexnet", 128),
    ("vdnn-all", "googlenet", 128),
    ("vdnn-all", "vgg16", 64),
    ("layrub", "alexnet", 128),
    ("layrub", "vgg16", 64),
    ("layrub", "googlenet", 128),
    ("layrub", "resnet50", 64),
    ("layrub", "resnet152", 32),
)
"""Policies whose papers tell a saving, on networks of those papers."""


def claims(time_limit_s: float, card: str = "titan-x-maxwell") -> Iterator[dict[str, Any]]:
    """What a policy saves and costs, and what planc costs within the policy's own peak.

    Savings are against Caffe's allocations: by the policy's peak, and by its bytes averaged over the step, as vDNN
    tells its own. VGG-16 at batch 256 comes last, within 12 GB.
    """
    for policy, network, batch in CLAIMS:
        problem = job_of(network, card, batch=batch).usual.problem
        unlimited = replace(problem, budget_bytes=1 << 50)
        caffe = load_solver("caffe").solve(unlimited, SolveOptions()).allocator_bytes or 1
        theirs = solve(load_solver(policy), unlimited, SolveOptions())
        profile = memory_profile(problem, theirs.schedule)
        lasts = [end - start for start, end in theirs.timeline.steps]
        mean = sum(b * ns for b, ns in zip(profile, lasts, strict=True)) / sum(lasts)
        yield {
            "policy": policy,
            "network": network,
            "batch": batch,
            "card": card,
            "caffe_bytes": caffe,
            "saved_peak": round(1 - theirs.peak_bytes / caffe, 4),
            "saved_mean": round(1 - mean / caffe, 4),
            "overhead": _overhead(theirs, problem),
            "mip_overhead": _mip_overhead(replace(problem, budget_bytes=theirs.peak_bytes), time_limit_s),
        }
    problem = replace(job_of("vgg16", card, batch=256).usual.problem, budget_bytes=12 * 10**9)
    found = {"policy": "vdnn-dyn", "network": "vgg16", "batch": 256, "card": card, "budget_bytes": 12 * 10**9}
    try:
        found["overhead"] = _overhead(solve(load_solver("vdnn-dyn"), problem, SolveOptions()), problem)
    except InfeasibleBudgetError as error:
        found |= {"overhead": None, "needed_bytes": error.minimum_budget_bytes}
    yield {**found, "mip_overhead": _mip_overhead(problem, time_limit_s)}


def _overhead(solution: Solution, problem: Problem) -> float:
    return round(solution.timeline.step_ns / problem.base_duration_ns - 1, 4)


def _mip_overhead(problem: Problem, time_limit_s: float) -> float | None:
    try:
        return _overhead(solve(load_solver("mip"), problem, SolveOptions(time_limit_s=time_limit_s)), problem)
    except PlancError:
        return None


PUBLISHED = ("vgg16_train", "random_layered_100", "resnet50_train", "random_layered_250")
"""Instances of Checkmate's and MOCCASIN's tables (benchmarks/solver/instances)."""


def published(time_limit_s: float, solvers: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Overheads at 0.9 and 0.8 of the peak of the given order, recomputing only, one solve at a time."""
    for name in PUBLISHED:
        instance = read_instance(Path(__file__).parent / "solver" / "instances" / f"{name}.json")
        for share, solver in product((0.9, 0.8), solvers):
            started = time.perf_counter()
            problem = instance.with_budget(int(instance.peak_bytes * share))
            status, overhead = "", None
            try:
                solution = solve(load_solver(solver), problem, SolveOptions(time_limit_s=time_limit_s))
                status = str(solution.status)
                overhead = round(solution.timeline.step_ns / problem.base_duration_ns - 1, 6)
            except InfeasibleBudgetError:
                status = "infeasible"
            except PolicyScopeError:
                status = "refused"
            except SolverTimeoutError:
                status = "timeout"
            yield {
                "instance": name,
                "nodes": len(instance.nodes),
                "solver": solver,
                "budget_fraction": share,
                "status": status,
                "overhead": overhead,
                "solve_s": round(time.perf_counter() - started, 1),
            }


def read_results() -> dict[str, list[dict[str, Any]]]:
    """What is there so far."""
    if not RESULTS[0].exists():
        return {"rows": [], "smallest": [], "deepest": [], "published": [], "claims": []}
    found: dict[str, list[dict[str, Any]]] = json.loads(RESULTS[0].read_text())
    return found


def write_results(found: dict[str, list[dict[str, Any]]]) -> None:
    """One row a line."""
    parts = [f'"{kind}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]" for kind, rows in found.items()]
    RESULTS[0].parent.mkdir(parents=True, exist_ok=True)
    RESULTS[0].write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _pairs(options: argparse.Namespace, kind: str) -> Iterator[Pair]:
    """The pairs that are not there yet, with the solvers that are missing."""
    have = {(r["network"], r["card"], r["solver"], r.get("budget_fraction")) for r in read_results()[kind]}
    shares = tuple(map(float, options.shares.split(","))) if kind == "rows" else (None,)
    networks = options.networks.split(",") if options.networks else tuple(NETWORKS)
    for card, share, network in product(options.cards.split(","), shares, networks):
        missing = tuple(name for name in options.solvers if (network, card, name, share) not in have)
        if missing:
            yield Pair(network, card, () if share is None else (share,), missing, options.time_limit)


def _run(kind: str, work: Any, pairs: Iterable[Pair], jobs: int) -> None:
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for pair, rows in zip(pairs := list(pairs), pool.map(work, pairs), strict=True):
            found = read_results()
            found[kind] += rows
            write_results(found)
            print(pair.network, pair.card, len(rows), "rows", time.strftime("%H:%M:%S"), flush=True)


def _replace(kind: str, row: dict[str, Any], key: tuple[str, ...]) -> None:
    """Write a row in place of the one that was there for the same `key`."""
    found = read_results()
    found[kind] = [other for other in found.get(kind, []) if any(other[k] != row[k] for k in key)] + [row]
    write_results(found)
    print(row, flush=True)


def violations(rows: list[dict[str, Any]]) -> list[str]:
    """Points at which mip is slower than another policy, or has no plan where one has."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        best.setdefault((row["network"], row["card"], row["budget_fraction"]), {})[row["solver"]] = row["overhead"]
    found = []
    for point, by_solver in best.items():
        ours = by_solver.get("mip")
        for name, theirs in by_solver.items() if "mip" in by_solver else ():
            if theirs is not None and (ours is None or ours > theirs + 1e-6):
                found.append(f"{point}: mip {ours}, {name} {theirs}")
    return found


def main() -> None:
    """Run a part of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "smallest", "deepest", "published", "claims", "table"])
    parser.add_argument("--networks", default="")
    parser.add_argument("--cards", default="titan-x-maxwell,h100")
    parser.add_argument("--shares", default="0.8,0.5,0.3,0.2")
    parser.add_argument("--solvers", type=lambda text: tuple(text.split(",")), default=solver_names())
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS[0])
    options = parser.parse_args()
    RESULTS[0] = options.results
    if options.part == "run":
        _run("rows", rows_of_pair, _pairs(options, "rows"), options.jobs)
    elif options.part == "smallest":
        _run("smallest", smallest_of_pair, _pairs(options, "smallest"), options.jobs)
    elif options.part == "deepest":
        for row in deepest(options.solvers, options.time_limit):
            _replace("deepest", row, ("solver",))
    elif options.part == "claims":
        for row in claims(options.time_limit):
            _replace("claims", row, ("policy", "network", "batch"))
    elif options.part == "published":
        for row in published(options.time_limit, options.solvers):
            _replace("published", row, ("instance", "solver", "budget_fraction"))
    else:
        from policies_table import write_table

        write_table(read_results())
    for text in violations(read_results()["rows"]):
        print("VIOLATION", text, file=sys.stderr)


if __name__ == "__main__":
    main()
