"""The compiler's whole way: graph and costs → problems → schedule → plan, verified."""

import hashlib
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import msgspec
import onnx

from planc.clock import WALL, StoppableClock, WorkClock
from planc.compiler.assemble import Result, assemble_plan
from planc.compiler.budget import (
    arena_bytes_of,
    budget_bytes,
    on_host,
    planning_problems,
)
from planc.compiler.fit import Limits, bounded, overtime_s
from planc.compiler.history import Known, fastest_within
from planc.compiler.of_process import PROCESS, within_process
from planc.compiler.options import Compilation, CompileOptions
from planc.compiler.sessions import Found, least_plan, search_plan
from planc.compiler.slow_tier import slow_tier, without_swaps
from planc.costs.table import CostTable
from planc.errors import InfeasibleBudgetError, PlancWarning, SolverTimeoutError
from planc.garbage import settled
from planc.importer.import_model import ImportedModel, import_for
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.runtime.own_kernels import require_kernels
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
    _leasts: dict[tuple[int, str, str | None], Found | None] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, imported: ImportedModel, costs: CostTable) -> "CompileJob":
        """State the problems; a disk that is too slow to help is warned of and not used.

        Raises DeviceError when the costs are another model's, or of other kernels of planc's own.
        """
        if not costs.estimated:
            require_kernels(imported, costs.device.kind, costs.device.versions, "the cost table")
        plannings = planning_problems(imported.graph, costs)
        refused = slow_tier(costs, plannings[0])
        if refused:
            warnings.warn(refused, PlancWarning, stacklevel=4)
            plannings = tuple(map(without_swaps, plannings))
        return cls(imported, costs, plannings)

    @property
    def usual(self) -> PlanningProblem:
        """The problem that percentages and the unlimited step are told of."""
        return self.plannings[0]

    @property
    def roomy_bytes(self) -> int:
        """A budget within which nothing has to be given up: the liveness peak with what lies beside the slab."""
        return self.usual.liveness_peak_bytes + self._beside(self.usual) + self.costs.device.session_bytes

    def _beside(self, planning: PlanningProblem) -> int:
        """Bytes beside the slab, but for sessions: an arena for scratch, and what exchanges hold."""
        return arena_bytes_of(planning) + self.costs.exchange_bytes

    @property
    def least_bytes(self) -> int:
        """A budget below which no plan goes: the neediest layer's, with what lies beside the slab."""
        return (
            min(minimum_budget(planning.problem)[0] + self._beside(planning) for planning in self.plannings)
            + self.costs.device.session_bytes
        )

    def budget_bytes(self, text: str | None, solver: str = "mip") -> int:
        """Bytes meant by a budget, `min` being the least that a plan of `solver` is known to need.

        Raises UsageError when it cannot be read, and InfeasibleBudgetError for `min` where no plan is known, or where a
        process would take all of it beside the plan.
        """
        if text == "min":
            return self._least_budget(solver, None)
        if text is not None and text.startswith(PROCESS):
            least = self.least_bytes, minimum_budget(self.usual.problem)[1]
            return within_process(self.imported, self.costs, text, self.roomy_bytes, least)
        return min(budget_bytes(text, planning, self.costs) for planning in self.plannings)

    def compile(self, options: CompileOptions) -> Compilation:
        """A verified plan.

        Raises UsageError (unknown solver, unreadable budget), InfeasibleBudgetError with the smallest budget known to be
        feasible, SolverTimeoutError.
        """
        return self.finish(self.search(options), options)

    @settled()
    def search(self, options: CompileOptions, late_share: float = 1.0) -> Result:
        """The fastest plan found, neither assembled nor verified, a little after the time limit where that must be, by
        that share of what a plan may be late. Raises what `compile` raises."""
        clock: StoppableClock = WorkClock() if options.deterministic else WALL
        started, least = clock.now(), options.budget == "min"
        budget = self._least_budget(options.solver, options.host_memory) if least else self.budget_bytes(options.budget)
        spent = clock.now() - started
        left = options.time_limit_s - spent
        late_s = max(0.0, late_share * overtime_s(options.time_limit_s) + min(0.0, left))
        if least and left < spent:  # too little for a search, and the plan is made
            planning, found = self._leanest(options)
        else:
            planning, found = self._fastest(budget, options, left, late_s, clock)
        if options.deterministic:
            return Result(planning, found, budget, arena_bytes_of(planning), solve_s=0.0)
        result = Result(planning, found, budget, arena_bytes_of(planning), clock.now() - started)
        return self.recalled(result, options)

    @settled()
    def finish(self, result: Result, options: CompileOptions) -> Compilation:
        """The plan of what a search found, assembled and verified."""
        plan = assemble_plan(self.imported, self.costs, result, options)
        require_valid(self.imported.graph, plan, "the compiled plan")
        return Compilation(plan, result.planning, result.found.solution, result.found.repairs)

    def recalled(self, result: Result, options: CompileOptions) -> Result:
        """The plan found, or a faster one that was made for a smaller budget, with the bound proved for this one."""
        costs = hashlib.sha256(msgspec.json.encode(self.costs)).hexdigest()
        key = (self.imported.graph.content_hash, costs, options.solver, str(options.host_memory))
        new = Known(result.planning, result.found, result.found.need + self._beside(result.planning))
        best = fastest_within(key, result.budget_bytes, new)
        if best is new:
            return result
        found = replace(best.found, solution=bounded(best.found.solution, result.found.solution))
        return replace(result, planning=best.planning, found=found, scratch_bytes=arena_bytes_of(best.planning))

    def _least_budget(self, solver: str, host_memory: str | None) -> int:
        """The least bytes that a plan is known to need."""
        needs = [
            plan.need + self._beside(planning)
            for index, planning in enumerate(self.plannings)
            if (plan := self._least(index, solver, host_memory)) is not None
        ]
        if needs:
            return min(needs)
        need, layer = minimum_budget(self.usual.problem)
        raise InfeasibleBudgetError(f"{solver} has no plan of this step at any budget that was tried", need, layer)

    def _least(self, index: int, solver: str, host_memory: str | None) -> Found | None:
        """The least plan of one of the problems, made once."""
        key = index, solver, host_memory
        if key not in self._leasts:
            limited, policy = on_host(self.plannings[index], host_memory), load_solver(solver)
            self._leasts[key] = least_plan(self.imported, limited, policy, self.costs.device.session_bytes)
        return self._leasts[key]

    def _leanest(self, options: CompileOptions) -> tuple[PlanningProblem, Found]:
        """The problem whose least plan needs the least, and the plan, where that was made before."""
        made = [
            (on_host(planning, options.host_memory), plan, plan.need + self._beside(planning))
            for index, planning in enumerate(self.plannings)
            if (plan := self._least(index, options.solver, options.host_memory)) is not None
        ]
        planning, plan, _ = min(made, key=lambda each: each[2])
        return planning, plan

    def _fastest(
        self, budget: int, options: CompileOptions, seconds: float, late_s: float, clock: StoppableClock
    ) -> tuple[PlanningProblem, Found]:
        """The problem with the fastest plan, and the plan. The problems share the time limit and `late_s` more.

        Raises what the search raises for each of them: for the one that needs the least, where budgets are too small.
        """
        solver, ends = load_solver(options.solver), clock.now() + seconds
        last = max(ends, clock.now()) + late_s
        found: list[tuple[PlanningProblem, Found]] = []
        failed: list[InfeasibleBudgetError | SolverTimeoutError] = []
        for index, planning in enumerate(self.plannings):
            limited, beside = on_host(planning, options.host_memory), self._beside(planning)
            share = max(0.0, ends - clock.now()) / (len(self.plannings) - index)
            late = 0.0 if found else max(0.0, last - clock.now()) / (len(self.plannings) - index) - share
            limits = Limits(
                budget - beside, beside, share, options.seed, options.on_progress, options.gap, clock,
                late_s=late, rescued=(index, options.solver, options.host_memory) in self._leasts,
            )  # fmt: skip
            least = partial(self._least, index, options.solver, options.host_memory)
            try:
                plan = search_plan(self.imported, limited, solver, limits, self.costs.device.session_bytes, least)
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
