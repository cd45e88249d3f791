"""Plans made from any schedule, solver or not."""

from planc.compiler.assemble import Result, assemble_plan
from planc.compiler.options import CompileOptions
from planc.compiler.sessions import Found
from planc.enums import Status
from planc.importer.import_model import ImportedModel
from planc.lowering.lower import lower
from planc.plan.plan import Plan
from planc.planning.build import build_problem
from planc.schedule.residency import residencies, without_idle_starts
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Solution
from support.costs import made_up_costs
from support.schedules import random_schedule

SCRATCH = 4 << 20


SLAB_SCRATCH = 128 << 10
"""Scratch of every layer where it lies inside the slab: enough for the small test networks."""


def plan_of(imported: ImportedModel, schedule: Schedule, scratch_in_slab: bool = False) -> Plan:
    """The plan of a given schedule, with a budget that it just meets."""
    costs = made_up_costs(imported.graph, **({"scratch": SLAB_SCRATCH} if scratch_in_slab else {}))
    planning = build_problem(imported.graph, costs, scratch_in_slab)
    schedule = without_idle_starts(planning.problem, schedule, residencies(planning.problem, schedule))
    lowered = lower(imported.graph, planning, schedule)
    timeline = simulate(planning.problem, schedule)
    base = planning.problem.base_duration_ns
    solution = Solution(schedule, timeline, lowered.slab_bytes, base, "every schedule", 0.0, Status.FEASIBLE)
    beside = 0 if scratch_in_slab else SCRATCH
    budget = lowered.slab_bytes + beside
    found = Found(solution, lowered, session_bytes=0, repairs=0)
    result = Result(planning, found, budget, beside, solve_s=0.0)
    return assemble_plan(imported, costs, result, CompileOptions(solver="test"))


def random_plan(imported: ImportedModel, seed: int, scratch_in_slab: bool = False) -> Plan:
    """The plan of a random schedule."""
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    return plan_of(imported, random_schedule(planning.problem, seed), scratch_in_slab)
