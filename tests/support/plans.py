"""Plans made from any schedule, solver or not."""

from planc.compiler import CompileOptions, assemble_plan
from planc.importer.build import ImportedModel
from planc.lowering.lower import lower
from planc.plan.plan import Plan
from planc.problem.build import build_problem
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc.schedule.solver import Solution, Status
from support.costs import made_up_costs
from support.schedules import random_schedule

SCRATCH = 4 << 20


def plan_of(imported: ImportedModel, schedule: Schedule) -> Plan:
    """The plan of a given schedule, with a budget that it just meets."""
    costs = made_up_costs(imported.graph)
    planning = build_problem(imported.graph, costs)
    lowered = lower(imported.graph, planning, schedule)
    timeline = simulate(planning.problem, schedule)
    base = planning.problem.base_duration_ns
    solution = Solution(schedule, timeline, lowered.slab_bytes, base, "every schedule", 0.0, Status.FEASIBLE)
    budget = lowered.slab_bytes + SCRATCH
    return assemble_plan(
        imported, costs, planning, solution, lowered, budget, SCRATCH, 0.0, CompileOptions(solver="test")
    )


def random_plan(imported: ImportedModel, seed: int) -> Plan:
    """The plan of a random schedule."""
    planning = build_problem(imported.graph, made_up_costs(imported.graph))
    return plan_of(imported, random_schedule(planning.problem, seed))
