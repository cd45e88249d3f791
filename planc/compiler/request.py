"""One way to compile: what a user asks for, resolved once, compiled within as many budgets as wanted.

Every door (the Python interface, `planc compile`, `planc compare`) makes a `CompileRequest`. Resolving it reads the
costs or measures them, imports the model for its device and states the planning problems, each once.
"""

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from planc.compiler.job import CompileJob
from planc.costs.store import read_costs
from planc.costs.table import CostTable
from planc.errors import UsageError
from planc.importer.import_model import ImportedModel
from planc.importer.load import ModelFile
from planc.profiling.cache import costs_for
from planc.profiling.meter import Progress
from planc.profiling.once import Measured
from planc.profiling.target import import_to_run_on


@dataclass(frozen=True)
class CompileRequest:
    """A training step, and the device to plan for or the costs measured there.

    With `costs`, a table or its file, `device` and `fuse` are those of the table. With `fuse`, stretches of
    element-wise operators become one kernel where the device has such. `host_tier` is where swapped bytes are to go:
    copies there are measured; None is the device's usual place. `world_size` is how many ranks the model is expected to be
    for, None whatever it says. `on_progress` hears of profiling: layers done,
    layers in all, and what is measured. Requests for one device may share what was `measured` for them.
    """

    source: str | Path | onnx.ModelProto | ModelFile
    device: str = "auto"
    costs: str | Path | CostTable | None = None
    fuse: bool = True
    on_progress: Progress = field(default=lambda *_: None)
    host_tier: str | None = None
    world_size: int | None = None
    measured: Measured = field(default_factory=Measured)

    def resolve(self) -> CompileJob:
        """Import, measure where costs are neither given nor cached, and state the planning problems.

        Raises ModelError, UsageError for an unknown device, DeviceError for costs that cannot be had or are another
        model's.
        """
        table = read_costs(Path(self.costs)) if isinstance(self.costs, (str, Path)) else self.costs
        imported = import_to_run_on(self.source, self.device, self.fuse, table)
        if self.world_size not in (None, imported.graph.ranks):
            raise UsageError(
                f"{imported.file.title} is the step of {imported.graph.ranks} rank(s), not of {self.world_size}: build it "
                f"again with --world-size {self.world_size} (planc zoo build, planc grad)"
            )
        return CompileJob.of(imported, table if table is not None else self._measured(imported))

    def _measured(self, imported: ImportedModel) -> CostTable:
        return costs_for(imported, self.device, self.on_progress, self.host_tier, self.measured)
