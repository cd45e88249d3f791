"""Planned steps against unplanned ones, bit for bit; the solver against brute force; memory over many steps."""

import random
from dataclasses import replace
from pathlib import Path

from support import networks
from support.costs import made_up_costs
from support.optimum import check_recomputation_optimum
from support.plans import random_plan
from support.problems import random_dag
from support.zoo_networks import MOMENTUM, small_step

from benchmarks.reliability.count import Count
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import import_model
from planc.problem.bounds import minimum_budget
from planc.runtime.measure import measure, synthetic_feeds
from planc.runtime.step import load
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule

_NETWORKS = (
    "mlp", "gpt2", "resnet18", "squeezenet", "mobilenet_v2", "unet", "bert_base", "vit_b16", "shufflenet", "vgg16",
    "densenet121", "googlenet",
)  # fmt: skip
_BUDGETS = ("100%", "80%", "60%", "50%", "40%", "min")
_POLICIES = ("mip", "keep-all", "sqrt-n", "vdnn-all")


def equal(scale: int) -> dict[str, Count]:
    """Networks by budgets by policies: every output and state of every step has the bits of the unplanned graph."""
    count = Count()
    names, steps = (_NETWORKS, 20) if scale >= 10 else (_NETWORKS[:2], 3)
    for name in names:
        imported = import_model(small_step(name, MOMENTUM))
        job = CompileJob.of(imported, made_up_costs(imported.graph, scratch=256 << 10))
        for budget in _BUDGETS if scale >= 10 else _BUDGETS[1::2]:
            for policy in _POLICIES:
                try:
                    plan = job.compile(CompileOptions(budget, policy, 1.0)).plan
                except (InfeasibleBudgetError, SolverTimeoutError):
                    count.note("no plan within the budget")
                    continue
                with load(plan, imported) as step:
                    result = measure(step, steps, 0, compare=True)
                failure = f"{name} {budget} {policy}: {result.differing_values} values differ"
                count.add(None if result.bitwise_equal else failure)
    count.notes["networks"], count.notes["steps each"] = len(names), steps
    return {"plans executed against the unplanned graph": count}


def honest(scale: int) -> dict[str, Count]:
    """On tiny problems the solver's optimum is that of brute force, and "infeasible" is true."""
    count = Count()
    for seed in range(5 * scale):
        problem = random_dag(10_000 + seed)
        peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
        least, _ = minimum_budget(problem)
        budget = random.Random(seed).randint(max(1, least - 2), max(least, peak - 1))
        try:
            check_recomputation_optimum(replace(problem, budget_bytes=budget))
            count.add(None)
        except AssertionError as error:
            count.add(f"problem {seed}: {error}")
    return {"solved problems against brute force": count}


def flat(scale: int) -> dict[str, Count]:
    """Resident memory after many steps is what it was after the first tenth of them, to a percent."""
    count, imported, total = Count(), networks.mlp(), 100 * scale
    with load(random_plan(imported, 1, True), imported) as step:
        early = 0
        for index in range(total):
            step(synthetic_feeds(imported.graph, index % 8))
            if index == total // 10:
                early = _resident()
        grown = _resident() - early
    count.notes["steps"], count.notes["bytes grown"] = total, grown
    count.add(None if grown <= max(early // 100, 1 << 20) else f"{grown} bytes more after {total} steps")
    return {"long runs": count}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
