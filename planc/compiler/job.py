"""The compiler's whole way: graph and costs → problems → schedule → plan, verified."""

import time
from dataclasses import dataclass
from pathlib import Path

import onnx

from planc.compiler.assemble import Result, assemble_plan
from planc.compiler.budget import (
    arena_bytes_of,
    budget_bytes,
    on_host,
    planning_problems,
)
from planc.compiler.fit import Limits
from planc.compiler.options import Compilation, CompileOptions
from planc.compiler.sessions import Found, search_plan
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, SolverTimeoutError
from planc.importer.import_model import ImportedModel, import_for
from planc.planning.build import PlanningProblem
from planc.schedule.solver import load_solver
from planc.verifier.verify import require_valid


@dataclass(frozen=True)
class CompileJob:
    """A model with its costs and the planning problems made of them: all that budgets and solvers have in common.

    Of the `plannings`, the one with the fastest plan is taken.
    """

    imported: ImportedModel
    costs: CostTable
    plannings: tuple[PlanningProblem, ...]

    @classmethod
    def of(cls, imported: ImportedModel, costs: CostTable) -> "CompileJob":
        """State the problems. Raises DeviceError when the costs are another model's."""
        return cls(imported, costs, planning_problems(imported.graph, costs))

    @property
    def usual(self) -> PlanningProblem:
        """The problem that percentages and the unlimited step are told of."""
        return self.plannings[0]

    def budget_bytes(self, text: str | None) -> int:
        """Bytes meant by a budget. Raises UsageError when it cannot be read."""
        return min(budget_bytes(text, planning, self.costs) for planning in self.plannings)

    def compile(self, options: CompileOptions) -> Compilation:
        """A verified plan.

        Raises UsageError (unknown solver, unreadable budget), InfeasibleBudgetError with the smallest feasible budget,
        SolverTimeoutError.
        """
        budget, started = self.budget_bytes(options.budget), time.perf_counter()
        planning, found = self._fastest(budget, options)
        result = Result(planning, found, budget, arena_bytes_of(planning), time.perf_counter() - started)
        plan = assemble_plan(self.imported, self.costs, result, options)
        require_valid(self.imported.graph, plan, "the compiled plan")
        return Compilation(plan, planning, found.solution, found.repairs)

    def _fastest(self, budget: int, options: CompileOptions) -> tuple[PlanningProblem, Found]:
        """The problem with the fastest plan, and the plan. The problems share the time limit.

        Raises what the search raises for each of them: for the one that needs the least, where budgets are too small.
        """
        solver, share = load_solver(options.solver), options.time_limit_s / len(self.plannings)
        found: list[tuple[PlanningProblem, Found]] = []
        failed: list[InfeasibleBudgetError | SolverTimeoutError] = []
        for planning in self.plannings:
            limited, scratch = on_host(planning, options.host_memory), arena_bytes_of(planning)
            limits = Limits(budget - scratch, scratch, share, options.seed, options.on_progress)
            try:
                plan = search_plan(self.imported, limited, solver, limits, self.costs.device.session_bytes)
                found.append((limited, plan))
            except (InfeasibleBudgetError, SolverTimeoutError) as error:
                failed.append(error)
        if found:
            return min(found, key=lambda pair: pair[1].solution.timeline.step_ns)
        too_small = [error for error in failed if isinstance(error, InfeasibleBudgetError)]
        raise min(too_small, key=_need) if len(too_small) == len(failed) else failed[0]


def _need(error: InfeasibleBudgetError) -> int:
    return error.minimum_budget_bytes


def compile_model(
    model: str | Path | onnx.ModelProto | ImportedModel, costs: CostTable, options: CompileOptions | None = None
) -> Compilation:
    """Compile a training step with known costs, once. Raises ModelError, DeviceError, and what `CompileJob` raises."""
    imported = model if isinstance(model, ImportedModel) else import_for(model, costs.model_hash)
    return CompileJob.of(imported, costs).compile(options or CompileOptions())
