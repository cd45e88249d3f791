"""Planned steps against unplanned ones, bit for bit; the solver against brute force; memory over many steps."""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
from support import networks
from support.costs import made_up_costs
from support.optimum import check_recomputation_optimum
from support.plans import random_plan
from support.problems import random_dag
from support.solved_twice import budgeted, solved_twice
from support.zoo_networks import MOMENTUM, small_step

from benchmarks.reliability.count import Count
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.errors import InfeasibleBudgetError, PolicyScopeError, SolverTimeoutError
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.problem.bounds import minimum_budget
from planc.runtime.measure import measure, synthetic_feeds
from planc.runtime.step import load
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import solver_names

_NETWORKS = (
    "mlp", "gpt2", "resnet18", "squeezenet", "mobilenet_v2", "unet", "bert_base", "vit_b16", "shufflenet", "vgg16",
    "densenet121", "googlenet",
)  # fmt: skip
_POLICIES = ("mip", "keep-all", "sqrt-n", "vdnn-all")
_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Budgets between the least that a policy has a plan for and the one within which nothing is given up, as shares of the
way."""

_SCRATCH = 2 << 20
"""More than any operator of these networks takes."""


def equal(scale: int) -> dict[str, Count]:
    """Networks by budgets by policies, all that are installed in the long form: every output and state of every step has
    the bits of the unplanned graph. A policy's plan that was executed before, for another budget, is not again."""
    count, long = Count(), scale >= 10
    names, steps, policies = (_NETWORKS, 20, solver_names()) if long else (_NETWORKS[:2], 3, _POLICIES)
    for name in names:
        imported = import_model(small_step(name, MOMENTUM))
        job = CompileJob.of(imported, made_up_costs(imported.graph, scratch=_SCRATCH))
        executed: dict[bytes, str | None] = {}
        for policy, budget in _budgets(job, policies, _SHARES if long else _SHARES[1::2]):
            plan = _plan_within(job, CompileOptions(f"{budget}B", policy, 1.0), count)
            if plan is None:
                continue
            does = plan.runs, plan.segments, plan.copies, plan.residencies, plan.host_slots, plan.scratch
            content = msgspec.json.encode(does)
            if content not in executed:
                executed[content] = _differs(plan, imported, steps)
                count.note("different plans")
            differs = executed[content]
            count.add(None if differs is None else f"{name} {budget} {policy}: {differs}")
    count.notes |= {"networks": len(names), "budgets": len(_SHARES), "policies": len(policies), "steps each": steps}
    return {"plans executed against the unplanned graph": count}


def _budgets(job: CompileJob, policies: Sequence[str], shares: Sequence[float]) -> Iterator[tuple[str, int]]:
    """Policies with budgets in bytes; of a policy that has no plan of this step at any budget, none."""
    for policy in policies:
        with suppress(InfeasibleBudgetError):
            least = job.budget_bytes("min", policy)
            for share in shares:
                yield policy, least + int(share * max(0, job.roomy_bytes - least))


def _plan_within(job: CompileJob, options: CompileOptions, count: Count) -> Plan | None:
    """The plan, or None, told of, where the policy has none."""
    try:
        return job.compile(options).plan
    except (InfeasibleBudgetError, SolverTimeoutError):
        count.note("no plan within the budget")
    except PolicyScopeError:
        count.note("not a step that the policy is for")
    return None


def _differs(plan: Plan, imported: ImportedModel, steps: int) -> str | None:
    with load(plan, imported) as step:
        result = measure(step, steps, 0, compare=True)
    return None if result.bitwise_equal else f"{result.differing_values} values differ"


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


def twice(scale: int) -> dict[str, Count]:
    """The mixed-integer models of small problems have one optimum, found by HiGHS and by CP-SAT; it is no more than what
    brute force finds, and no less than the bound that HiGHS proves of the model as planc solves it."""
    count = Count()
    for seed in range(5 * scale):
        try:
            found = solved_twice(budgeted(seed), seed)
        except ArithmeticError as error:
            count.add(f"problem {seed}: {error}")
            continue
        fault = found.fault()
        count.add(None if fault is None else f"problem {seed}: {fault}")
        count.note("infeasible", int(found.cp_sat is None))
        count.note("equal to brute force", int(found.met()))
    return {"models solved by HiGHS and by CP-SAT": count}


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
