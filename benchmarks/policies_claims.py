"""What papers say their policies save, the depths that they reach, and their published instances, beside planc."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.policies_grid import job_of
from planc.errors import InfeasibleBudgetError, PlancError, PolicyScopeError, SolverTimeoutError
from planc.instances.instance import read_instance
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.solver import Solution, SolveOptions, load_solver, solve

DEPTHS = (1_517, 1_922, 2_504, 3_101, 3_500, 3_902, 4_340, 6_077)
"""Depths of ResNet: Layrub's, SuperNeurons' and Layup's deepest, and more; of 3,902 layers parameters and momentum alone
take 12 GB."""


def deepest(
    time_limit_s: float, solvers: Iterable[str], depths: Iterable[int] = DEPTHS, card: str = "titan-x-maxwell"
) -> Iterator[dict[str, Any]]:
    """For each solver the deepest ResNet, of some ascending depths, that it trains at batch 16 within 12 GB, as it is
    found.

    SuperNeurons' network: most blocks lie in the third stage. The schedule counts, before packing.
    """
    alive, budget = list(solvers), 12 * 10**9
    for depth in depths:
        job = job_of("resnet_deep", card, depth=depth, batch=16)
        problem = replace(job.usual.problem, budget_bytes=budget)
        options = SolveOptions(time_limit_s=time_limit_s, patience_s=4 * time_limit_s)
        for name in tuple(alive):
            started = time.perf_counter()
            try:
                solution = solve(load_solver(name), problem, options)
            except PlancError as error:
                print(name, depth, error, flush=True)
                alive.remove(name)
                continue
            yield {
                "solver": name,
                "card": card,
                "budget_bytes": budget,
                "depth": depth,
                "overhead": _overhead(solution, problem),
                "keep_all_bytes": job.usual.liveness_peak_bytes,
                "solve_s": round(time.perf_counter() - started, 1),
            }


CLAIMS: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("vdnn-all", "alexnet", {"batch": 128}),
    ("vdnn-all", "googlenet", {"batch": 128}),
    ("vdnn-all", "vgg16", {"batch": 64}),
    ("layrub", "alexnet", {"batch": 128}),
    ("layrub", "vgg16", {"batch": 64}),
    ("layrub", "googlenet", {"batch": 128}),
    ("layrub", "resnet50", {"batch": 64}),
    ("layrub", "resnet152", {"batch": 32}),
    ("layrub", "resnet_deep", {"batch": 16, "depth": 1517}),
)
"""Policies whose papers tell a saving, on networks of those papers; Layrub's deepest has 1,517 layers."""


def claims(time_limit_s: float, _solvers: Iterable[str], card: str = "titan-x-maxwell") -> Iterator[dict[str, Any]]:
    """What a policy saves and costs, and what planc costs within the policy's own peak.

    Savings are against Caffe's allocations: by the policy's peak, and by its bytes averaged over the step, as vDNN
    tells its own; that also with parameters and momentum, which no policy here moves, left out of both. VGG-16 at batch
    256 comes last, within 12 GB.
    """
    for policy, network, options in CLAIMS:
        problem = job_of(network, card, **options).usual.problem
        unlimited = replace(problem, budget_bytes=1 << 50)
        caffe = load_solver("caffe").solve(unlimited, SolveOptions()).allocator_bytes or 1
        state = sum(value.bytes for value in problem.values if value.origin is Origin.STATE)
        theirs = solve(load_solver(policy), unlimited, SolveOptions())
        profile = memory_profile(problem, theirs.schedule)
        lasts = [end - start for start, end in theirs.timeline.steps]
        mean = sum(b * ns for b, ns in zip(profile, lasts, strict=True)) / sum(lasts)
        yield {
            "policy": policy,
            "network": network,
            **options,
            "card": card,
            "caffe_bytes": caffe,
            "state_bytes": state,
            "saved_peak": round(1 - theirs.peak_bytes / caffe, 4),
            "saved_mean": round(1 - mean / caffe, 4),
            "saved_mean_maps": round(1 - (mean - state) / (caffe - state), 4),
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
        options = SolveOptions(time_limit_s=time_limit_s, patience_s=4 * time_limit_s)
        return _overhead(solve(load_solver("mip"), problem, options), problem)
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
