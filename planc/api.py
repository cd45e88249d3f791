"""The Python interface: the commands' names and meanings, without their printing."""

from pathlib import Path

import onnx

from planc.compiler.options import CompileOptions
from planc.compiler.request import CompileRequest
from planc.costs.table import CostTable
from planc.importer.import_model import import_for
from planc.plan.files import read_plan
from planc.plan.plan import Plan
from planc.runtime.step import TrainingStep, load
from planc.verifier.verify import verify as verify_graph
from planc.verifier.violation import Violation

__all__ = ["TrainingStep", "compile", "load", "verify"]


def compile(
    model: str | Path | onnx.ModelProto,
    *,
    budget: str | None = None,
    device: str = "auto",
    costs: str | Path | CostTable | None = None,
    solver: str = "mip",
    time_limit: float = 60.0,
    seed: int = 0,
    host_memory: str | None = None,
    fuse: bool = True,
    host_tier: str | None = None,
) -> Plan:
    """Compile a training step into a verified plan.

    `budget` is a size such as `8GiB`, `60%` of the liveness peak, or `min`; None takes 90 % of the device's free
    memory. Costs are measured on `device` on first use and cached unless given. `time_limit` is in seconds. `host_memory`
    is the most that swapped values may take on the host; None sets no limit. With `fuse`,
    stretches of element-wise operators become one kernel where the device has such. `host_tier` is where a plan for the
    CPU swaps to: `file` (the default), `file:PATH`, or `ram`, which stands for a card's host and saves no memory here.
    Raises ModelError, UsageError, DeviceError, InfeasibleBudgetError or SolverTimeoutError.
    """
    job = CompileRequest(model, device, costs, fuse, host_tier=host_tier).resolve()
    return job.compile(CompileOptions(budget, solver, time_limit, seed, host_memory)).plan


def verify(plan: str | Path | Plan, model: str | Path | onnx.ModelProto) -> tuple[Violation, ...]:
    """Every violation of a plan against its model; empty when it is valid. Raises PlanError or ModelError."""
    loaded = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    return verify_graph(import_for(model, loaded.model.hash).graph, loaded)
