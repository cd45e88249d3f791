"""The plan file from everything that was decided about a model."""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import starmap

from planc.compiler.options import CompileOptions
from planc.compiler.sessions import Found
from planc.costs.table import CostTable
from planc.graph.graph import input_roles
from planc.importer.import_model import ImportedModel
from planc.plan import plan as p
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget
from planc.schedule.simulate import unlimited_ns


@dataclass(frozen=True)
class Result:
    """What a compilation found, within which budget (bytes), with how much scratch beside the slab, in which time;
    and steps within other budgets, where they were tried."""

    planning: PlanningProblem
    found: Found
    budget_bytes: int
    scratch_bytes: int
    solve_s: float
    curve: tuple[p.CurvePoint, ...] = ()

    @property
    def step_ns(self) -> int:
        """The predicted step."""
        return self.found.solution.timeline.step_ns


def assemble_plan(imported: ImportedModel, costs: CostTable, result: Result, options: CompileOptions) -> p.Plan:
    """The plan that says where it comes from, what it takes, what it was predicted and proved, and what to do."""
    lowered = result.found.lowered
    return p.Plan(
        planc=version("planc"),
        created="" if options.deterministic else datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        model=_model(imported),
        costs=_costs(costs),
        certificate=_certificate(result, options),
        memory=_memory(result, costs),
        prediction=_prediction(result),
        runs=lowered.runs,
        segments=lowered.segments,
        copies=lowered.copies,
        residencies=lowered.residencies,
        host_slots=lowered.host_slots,
        scratch=lowered.scratch,
        layers=tuple(p.LayerInfo(x.name, x.kind, x.phase, x.stop - x.start) for x in imported.graph.layers),
        inputs=input_roles(imported.graph),
        engines=_engines(costs),
        format=_format(imported),
        ranks=imported.graph.ranks,
        rank=None if imported.graph.shards is None else imported.graph.shards.rank,
        exchanges=lowered.exchanges,
        curve=result.curve,
    )


def _format(imported: ImportedModel) -> int:
    if imported.graph.shards is not None:
        return p.SHARD_FORMAT
    return p.EXCHANGE_FORMAT if imported.graph.ranks > 1 else p.FORMAT


def _model(imported: ImportedModel) -> p.ModelInfo:
    graph, path = imported.graph, imported.file.path
    return p.ModelInfo(
        hash=graph.content_hash,
        file=path.name if path else "",
        layers=imported.layers,
        operators=imported.operators,
    )


def _engines(costs: CostTable) -> dict[str, tuple[p.EnginePin, ...]]:
    return {name: tuple(starmap(p.EnginePin, listed)) for name, listed in costs.engine_table.items()}


def _costs(costs: CostTable) -> p.CostInfo:
    return p.CostInfo(
        table=costs.identity,
        device=costs.device.name,
        kind=costs.device.kind,
        estimated=costs.estimated,
        versions=costs.device.versions,
    )


def _certificate(result: Result, options: CompileOptions) -> p.Certificate:
    solution = result.found.solution
    return p.Certificate(
        solver=options.solver,
        status=solution.status,
        lower_bound_ns=solution.lower_bound_ns,
        bound_scope=solution.bound_scope,
        gap=solution.gap,
        seed=options.seed,
        time_limit_s=options.time_limit_s,
        solve_s=result.solve_s,
    )


def _memory(result: Result, costs: CostTable) -> p.Memory:
    planning, lowered = result.planning, result.found.lowered
    need, layer = minimum_budget(planning.problem)
    return p.Memory(
        budget_bytes=result.budget_bytes,
        slab_bytes=lowered.slab_bytes,
        scratch_bytes=result.scratch_bytes,
        host_bytes=lowered.host_bytes,
        liveness_peak_bytes=planning.liveness_peak_bytes,
        minimum_budget_bytes=need + result.scratch_bytes + costs.device.session_bytes + costs.exchange_bytes,
        minimum_layer=layer,
        load_bytes=lowered.load_bytes,
        slab_scratch_bytes=max((region.bytes for region in lowered.scratch), default=0),
        session_bytes=result.found.session_bytes + costs.exchange_bytes,
        host_limit_bytes=planning.problem.host_budget_bytes,
        host_tier=costs.link.tier,
    )


def _prediction(result: Result) -> p.Prediction:
    timeline = result.found.solution.timeline
    return p.Prediction(
        step_ns=timeline.step_ns,
        unconstrained_step_ns=unlimited_ns(result.planning.problem),
        stall_ns=timeline.stall_ns,
        runs=timeline.steps,
        copies=timeline.copies,
        exchanges=timeline.exchanges,
    )
