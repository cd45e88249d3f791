"""The plan: what the compiler writes and the runtime executes. Integers only, bytes and nanoseconds.

What runs when. Four engines work at once: compute executes the runs in list order; copies out and copies in are executed
by one engine each, in list order. Everything is queued boundary by boundary: what starts after the first `n` runs (copies
with `after == n`, then the segment that begins with run `n`) is queued before what starts after more. So `after` never
decreases along the copies of one direction, and a copy waits for no copy that is queued at a later boundary. An action
begins when the one before it in its engine is complete, and all that it waits for; a copy also when `after` runs are.

In a step of several ranks the fourth engine exchanges, in list order, the same on every rank: the operators of one run are
summed over the ranks in the bytes of their inputs, from when `after` runs are complete; the run waits for that and
computes nothing. A sum may be for one rank alone, its root; then what the others have there is not to be read. And what
the root has may be given to all instead of summed.

Before a step, every storage that is not computed (state, batch, constant) lies in its residency that begins at slot 0; one
with an `initial` host slot lies there instead. Any other host slot of such a storage holds its value too. No copy brings in
what is there already.

Time inside a plan is counted in *slots*: one slot for each operator that the compute engine executes, run after run in
order. A *run* is one execution of a layer; a repeated layer is a recomputation. Lifetimes are half-open slot ranges.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from planc.enums import Direction, ExchangeKind, HostTierKind
from planc.files import write_outputs
from planc.plan.codec import decoded, encoded

FORMAT, EXCHANGE_FORMAT, SHARD_FORMAT = 1, 2, 3
"""Of plans without and with exchanges, and of one rank's plan: an older planc must not execute the latter."""

_LARGEST = 1 << 62
"""Bytes and nanoseconds up to here can be added up in 64 bits."""

Int = Annotated[int, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the plan computes: hash of structure and constants (state values excluded), file name, sizes.

    `layers` and `operators` are counted before any are joined for a card.
    """

    hash: str
    file: str
    layers: Int
    operators: Int


class LayerInfo(msgspec.Struct, frozen=True):
    """A layer as people read it; one run of it takes `operators` slots."""

    name: str
    kind: str
    phase: str
    operators: Int


class CostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the costs came from; `estimated` when they were not measured on the target."""

    table: str
    device: str
    kind: str
    estimated: bool
    versions: dict[str, str]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What the solver proved: `lower_bound_ns` holds for `bound_scope`; `gap` is relative to the predicted step."""

    solver: str
    status: str
    lower_bound_ns: Int
    bound_scope: str
    gap: float
    seed: Int
    time_limit_s: float
    solve_s: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted step, the step of unlimited memory, and start and end of every run, copy and exchange."""

    step_ns: Int
    unconstrained_step_ns: Int
    stall_ns: Int
    runs: tuple[tuple[Int, Int], ...]
    copies: tuple[tuple[Int, Int], ...]
    exchanges: tuple[tuple[Int, Int], ...] = ()


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: `slab_bytes` + `scratch_bytes` + `session_bytes` ≤ `budget_bytes`. `minimum_budget_bytes` is set by
    `minimum_layer`; `session_bytes` is what the plan's distinct sessions, and exchanges, are expected to take of the
    device.

    The host slab of `host_bytes` is within `host_limit_bytes`, where the user gave one. The costs of copies hold for a
    `host_tier` of this kind.

    `scratch_bytes` is an arena beside the slab; `slab_scratch_bytes` the largest scratch region inside the slab. A plan
    has one of the two, see `Plan.scratch`.
    """

    budget_bytes: Int
    slab_bytes: Int
    scratch_bytes: Int
    host_bytes: Int
    liveness_peak_bytes: Int
    minimum_budget_bytes: Int
    minimum_layer: str
    load_bytes: Int
    slab_scratch_bytes: Int = 0
    session_bytes: Int = 0
    host_limit_bytes: Int | None = None
    host_tier: HostTierKind = HostTierKind.RAM


class Residency(msgspec.Struct, frozen=True):
    """One residency of a storage in the slab: its bytes at `offset`, from slot `begin` up to slot `end`.

    An operator or copy that touches a storage means the residency with the latest `begin` not after its slot. A
    residency that takes over the bytes of another in place begins at the slot in which the other one ends minus one.
    So does the output of a Concat around its inputs; where each of them lies at its place there, the operator does
    not run.
    """

    storage: str
    offset: Int
    bytes: Int
    begin: Int
    end: Int


class Region(msgspec.Struct, frozen=True):
    """Bytes [`offset`, `offset + bytes`) of the slab."""

    offset: Int
    bytes: Int


class Run(msgspec.Struct, frozen=True):
    """One execution of the graph's layer `layer`, after the copies `waits` (indices into `copies`) are complete.

    `form` names the settings that its session is opened with, such as how much workspace convolutions may take; all
    runs of a segment have the same. Empty: the device's default.
    """

    layer: Int
    waits: tuple[Int, ...] = ()
    form: str = ""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer between a residency and a host slot, after the first `after` runs and the copies `waits`."""

    direction: Direction
    residency: Int
    host_offset: Int
    bytes: Int
    after: Int
    waits: tuple[Int, ...] = ()


class HostSlot(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a storage in the host slab. `initial`: the storage is there, and not in the slab, when a step begins."""

    storage: str
    offset: Int
    bytes: Int
    initial: bool


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """The exchange of `bytes` that run `run` awaits, after the first `after` runs. `tensors` names the results, in order,
    `roots` the rank of each that is summed for one or given by one."""

    run: Int
    after: Int
    bytes: Int
    tensors: tuple[str, ...] = ()
    kind: ExchangeKind = ExchangeKind.ALL_REDUCE
    roots: tuple[Int, ...] = ()


class EnginePin(msgspec.Struct, frozen=True):
    """A library's engine by its name, knobs included, and the workspace (bytes) that it takes."""

    engine: str
    workspace_bytes: int


class CurvePoint(msgspec.Struct, frozen=True):
    """A budget (bytes) and the predicted step (ns) of the best plan found within it."""

    budget_bytes: Int
    step_ns: Int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole plan. `segments` are half-open ranges of runs, each executed by one session.

    `scratch` says, segment by segment, which bytes of the slab the scratch of its operators takes while it runs (0
    bytes: none); where it is empty, all scratch lies in an arena of `memory.scratch_bytes` beside the slab. The
    copies of one direction run in list order. A step ends when all runs and copies are complete. `layers` (in the
    model's order) and `inputs` (role of every storage that exists before a step: state, batch or constant) are there
    for people and reports; nothing is executed by them.

    `engines` pins those that compute calls of planc's own operators, by the name of a call's function, from the fastest to
    the leanest: a run's form says how much workspace they may take. They hold for the library versions in `costs`.

    `ranks` run the plan at once; `exchanges` are what they sum, in the order of the runs that await them. With `rank` the
    plan is that of this one alone, whose step differs from the others'.

    `curve` has this plan's budget and, where others were tried while it was made, those, smallest first; the step never
    rises along it.
    """

    format: Int = FORMAT
    planc: str
    created: str
    model: ModelInfo
    costs: CostInfo
    certificate: Certificate
    memory: Memory
    prediction: Prediction
    runs: tuple[Run, ...]
    segments: tuple[tuple[Int, Int], ...]
    copies: tuple[Copy, ...]
    residencies: tuple[Residency, ...]
    host_slots: tuple[HostSlot, ...]
    scratch: tuple[Region, ...] = ()
    layers: tuple[LayerInfo, ...] = ()
    inputs: dict[str, str] = {}
    engines: dict[str, tuple[EnginePin, ...]] = {}
    ranks: Int = 1
    rank: Int | None = None
    exchanges: tuple[Exchange, ...] = ()
    curve: tuple[CurvePoint, ...] = ()

    @property
    def exchange_hash(self) -> str:
        """Hash of what is exchanged in which order: it must be the same on all ranks."""
        model = self.model.hash if self.rank is None else ""
        order = [self.ranks, model, *((e.bytes, e.tensors, e.kind, e.roots) for e in self.exchanges)]
        return hashlib.sha256(msgspec.json.encode(order)).hexdigest()

    @property
    def engine_table(self) -> dict[str, list[tuple[str, int]]]:
        """Engine and workspace (bytes) by call, as `planc.kernels.engines` takes them."""
        return {name: [(e.engine, e.workspace_bytes) for e in engines] for name, engines in self.engines.items()}

    @property
    def layer_forms(self) -> dict[int, str]:
        """The form of each layer's first execution."""
        return {run.layer: run.form for run in reversed(self.runs)}

    def save(self, path: str | Path) -> None:
        """Write the plan file, whole or not at all. Raises OutputError."""
        save_all({Path(path): self})

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a plan file. Raises PlanError naming it when it is missing, damaged or of another format."""
        return decoded(Path(path), Plan, (FORMAT, EXCHANGE_FORMAT, SHARD_FORMAT))


def save_all(plans: Mapping[Path, Plan]) -> None:
    """Write several plan files, all or none. Raises OutputError."""
    write_outputs({path: encoded(plan) for path, plan in plans.items()}, "plan")
