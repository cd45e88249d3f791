"""The plan: what the compiler writes and the runtime executes. Integers only, bytes and nanoseconds.

What runs when. Three engines work at once: compute executes the runs in list order; copies out and copies in are executed
by one engine each, in list order. Everything is queued boundary by boundary: what starts after the first `n` runs (copies
with `after == n`, then the segment that begins with run `n`) is queued before what starts after more. So `after` never
decreases along the copies of one direction, and a copy waits for no copy that is queued at a later boundary. An action
begins when the one before it in its engine is complete, and all that it waits for; a copy also when `after` runs are.

Before a step, every storage that is not computed (state, batch, constant) lies in its residency that begins at slot 0; one
with an `initial` host slot lies there instead. No copy brings in what is there already.

Time inside a plan is counted in *slots*: one slot for each operator that the compute engine executes, run after run in
order. A *run* is one execution of a layer; a repeated layer is a recomputation. Lifetimes are half-open slot ranges.
"""

import msgspec

from planc.enums import Direction

FORMAT = 1


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the plan computes: hash of structure and constants (state values excluded), file name, sizes."""

    hash: str
    file: str
    layers: int
    operators: int


class LayerInfo(msgspec.Struct, frozen=True):
    """A layer as people read it; one run of it takes `operators` slots."""

    name: str
    kind: str
    phase: str
    operators: int


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
    lower_bound_ns: int
    bound_scope: str
    gap: float
    seed: int
    time_limit_s: float
    solve_s: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted step, the step of unlimited memory, and start and end of every run and copy."""

    step_ns: int
    unconstrained_step_ns: int
    stall_ns: int
    runs: tuple[tuple[int, int], ...]
    copies: tuple[tuple[int, int], ...]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: `slab_bytes` + `scratch_bytes` + `session_bytes` ≤ `budget_bytes`. `minimum_budget_bytes` is set by
    `minimum_layer`; `session_bytes` is what the plan's distinct sessions are expected to take of the device.

    The host slab of `host_bytes` is within `host_limit_bytes`, where the user gave one.

    `scratch_bytes` is an arena beside the slab; `slab_scratch_bytes` the largest scratch region inside the slab. A plan
    has one of the two, see `Plan.scratch`.
    """

    budget_bytes: int
    slab_bytes: int
    scratch_bytes: int
    host_bytes: int
    liveness_peak_bytes: int
    minimum_budget_bytes: int
    minimum_layer: str
    load_bytes: int
    slab_scratch_bytes: int = 0
    session_bytes: int = 0
    host_limit_bytes: int | None = None


class Residency(msgspec.Struct, frozen=True):
    """One residency of a storage in the slab: its bytes at `offset`, from slot `begin` up to slot `end`.

    An operator or copy that touches a storage means the residency with the latest `begin` not after its slot. A
    residency that takes over the bytes of another in place begins at the slot in which the other one ends minus one.
    So does the output of a Concat around its inputs; where each of them lies at its place there, the operator does
    not run.
    """

    storage: str
    offset: int
    bytes: int
    begin: int
    end: int


class Region(msgspec.Struct, frozen=True):
    """Bytes [`offset`, `offset + bytes`) of the slab."""

    offset: int
    bytes: int


class Run(msgspec.Struct, frozen=True):
    """One execution of the graph's layer `layer`, after the copies `waits` (indices into `copies`) are complete.

    `form` names the settings that its session is opened with, such as how much workspace convolutions may take; all
    runs of a segment have the same. Empty: the device's default.
    """

    layer: int
    waits: tuple[int, ...] = ()
    form: str = ""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer between a residency and a host slot, after the first `after` runs and the copies `waits`."""

    direction: Direction
    residency: int
    host_offset: int
    bytes: int
    after: int
    waits: tuple[int, ...] = ()


class HostSlot(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a storage in the host slab. `initial`: the storage is there, and not in the slab, when a step begins."""

    storage: str
    offset: int
    bytes: int
    initial: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole plan. `segments` are half-open ranges of runs, each executed by one session.

    `scratch` says, segment by segment, which bytes of the slab the scratch of its operators takes while it runs (0
    bytes: none); where it is empty, all scratch lies in an arena of `memory.scratch_bytes` beside the slab. The
    copies of one direction run in list order. A step ends when all runs and copies are complete. `layers` (in the
    model's order) and `inputs` (role of every storage that exists before a step: state, batch or constant) are there
    for people and reports; nothing is executed by them.
    """

    format: int = FORMAT
    planc: str
    created: str
    model: ModelInfo
    costs: CostInfo
    certificate: Certificate
    memory: Memory
    prediction: Prediction
    runs: tuple[Run, ...]
    segments: tuple[tuple[int, int], ...]
    copies: tuple[Copy, ...]
    residencies: tuple[Residency, ...]
    host_slots: tuple[HostSlot, ...]
    scratch: tuple[Region, ...] = ()
    layers: tuple[LayerInfo, ...] = ()
    inputs: dict[str, str] = {}
