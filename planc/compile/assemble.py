"""The plan file from everything that was decided about a model."""

from datetime import UTC, datetime
from importlib.metadata import version

from planc.compile.options import CompileOptions
from planc.compile.sessions import Found
from planc.costs.table import CostTable
from planc.graph.graph import input_roles
from planc.importer.import_model import ImportedModel
from planc.plan import plan as p
from planc.planning.build import PlanningProblem
from planc.problem.bounds import minimum_budget


def assemble_plan(
    imported: ImportedModel,
    costs: CostTable,
    planning: PlanningProblem,
    found: Found,
    budget: int,
    scratch: int,
    solve_s: float,
    options: CompileOptions,
) -> p.Plan:
    need, layer = minimum_budget(planning.problem)
    solution, lowered = found.solution, found.lowered
    return p.Plan(
        planc=version("planc"),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        model=p.ModelInfo(
            hash=imported.graph.content_hash,
            file=imported.file.path.name if imported.file.path else "",
            layers=len(imported.graph.layers),
            operators=len(imported.graph.ops),
        ),
        costs=p.CostInfo(
            table=costs.identity,
            device=costs.device.name,
            kind=costs.device.kind,
            estimated=costs.estimated,
            versions=costs.device.versions,
        ),
        certificate=p.Certificate(
            solver=options.solver,
            status=solution.status,
            lower_bound_ns=solution.lower_bound_ns,
            bound_scope=solution.bound_scope,
            gap=solution.gap,
            seed=options.seed,
            time_limit_s=options.time_limit_s,
            solve_s=solve_s,
        ),
        memory=p.Memory(
            budget_bytes=budget,
            slab_bytes=lowered.slab_bytes,
            scratch_bytes=scratch,
            host_bytes=lowered.host_bytes,
            liveness_peak_bytes=planning.liveness_peak_bytes,
            minimum_budget_bytes=need + scratch + costs.device.session_bytes,
            minimum_layer=layer,
            load_bytes=lowered.load_bytes,
            slab_scratch_bytes=max((region.bytes for region in lowered.scratch), default=0),
            session_bytes=found.session_bytes,
            host_limit_bytes=planning.problem.host_budget_bytes,
        ),
        prediction=p.Prediction(
            step_ns=solution.timeline.step_ns,
            unconstrained_step_ns=planning.problem.base_duration_ns,
            stall_ns=solution.timeline.stall_ns,
            runs=solution.timeline.steps,
            copies=solution.timeline.copies,
        ),
        runs=lowered.runs,
        segments=lowered.segments,
        copies=lowered.copies,
        residencies=lowered.residencies,
        host_slots=lowered.host_slots,
        scratch=lowered.scratch,
        layers=tuple(p.LayerInfo(x.name, x.kind, x.phase, x.stop - x.start) for x in imported.graph.layers),
        inputs=input_roles(imported.graph),
    )
