"""Executes a verified plan on a device: queues runs and copies with the waits the plan lists, and nothing else."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from planc.enums import Direction
from planc.errors import DeviceError, InternalError
from planc.importer.import_model import ImportedModel
from planc.importer.seeds import advanced, with_seeds
from planc.importer.submodel import element_type, sub_model
from planc.plan.executed import Executed, executed
from planc.plan.plan import Copy, Plan
from planc.plan.residency_index import ResidencyIndex
from planc.runtime.device import Device, Engine, Event, LoadedSegment, TensorAddress
from planc.runtime.scratch import PlacesScratch

_ENGINES = {Direction.OUT: Engine.OUT, Direction.IN: Engine.IN}


@dataclass(slots=True)
class _Part:
    """A part of a segment: copies to submit before it, copies to await, what it executes, None behind the last, and that
    as loaded, None where it has nothing to compute."""

    submit: list[int]
    waits: list[int]
    executes: Executed | None = None
    loaded: LoadedSegment | None = None


@dataclass(slots=True)
class _Trial:
    """Chooses between queueing a step and queueing its recording: one step to warm up and one to time, of each.

    With `always`, the recording is taken untimed after the first step.
    """

    queue: Callable[[], None]
    capture: Callable[[Callable[[], None]], Callable[[], None]]
    always: bool
    recording: Callable[[], None] | None = None
    times: list[int] = field(default_factory=list)
    over: bool = False

    def next(self, spent_ns: int) -> Callable[[], None]:
        """What queues the next step, when the last one took `spent_ns`."""
        self.times.append(spent_ns)
        if self.recording is None and (self.always or len(self.times) == 2):
            self.recording = self.capture(self.queue)
            self.over = self.always or self.recording is self.queue
        if self.recording is None:
            return self.queue
        self.over = self.over or len(self.times) == 4
        slower = len(self.times) == 4 and self.times[3] > self.times[1]
        return self.queue if slower else self.recording


class Executor:
    """A plan bound to a device. `run_step` executes one step; addresses and order never change between steps.

    `replay` says whether steps are queued as the device's recording of one, where it can make one. None tries both and
    keeps the faster: a recording saves the host's time, but overlaps many copies less well than the queues themselves.
    """

    def __init__(
        self,
        plan: Plan,
        imported: ImportedModel,
        device: Device,
        replay: bool | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._plan, self._device, self._imported = plan, device, with_seeds(imported, seed)
        self._queue: Callable[[], None] = self._queue_step
        self._trial = None if replay is False else _Trial(self._queue_step, device.capture, bool(replay))
        self.residencies = ResidencyIndex(plan.residencies)
        self.drawn = 0
        self._parts: list[_Part] = []
        starting: defaultdict[int, list[int]] = defaultdict(list)
        for index, copy in enumerate(plan.copies):
            starting[copy.after].append(index)
        segment = -1
        for part in executed(imported.graph, plan.runs, plan.segments, self.residencies):
            progress(part.segment, len(plan.segments))
            runs = plan.runs[part.first : part.end] if part.segment > segment else ()
            segment, waits = part.segment, [c for run in runs for c in run.waits]
            submit = self._dependency_order(starting.pop(part.first, []))
            self._parts.append(_Part(submit, waits, part, self._load(self._imported, part)))
        self._parts.append(_Part(self._dependency_order(starting.pop(len(plan.runs), [])), []))
        if starting:
            raise InternalError("a copy starts inside a segment")

    def _load(self, imported: ImportedModel, part: Executed) -> LoadedSegment | None:
        """The operators as a segment, without Concats whose inputs lie in their places; None where none is left."""
        if part.empty:
            return None
        graph, model = imported.graph, sub_model(imported, part.ops, part.placed)
        addresses = {}
        for port in (*model.inputs, *model.outputs):
            tensor = graph.tensors[port.tensor]
            offset = self.residencies.offset(graph.storages[tensor.storage].name, part.slot + port.position)
            addresses[port.name] = TensorAddress(
                offset + tensor.offset, element_type(imported, port.tensor), tensor.shape
            )
        form = self._plan.runs[part.first].form
        return self._with_scratch(self._device.load(model, addresses, form), part.segment)

    def _with_scratch(self, segment: LoadedSegment, index: int) -> LoadedSegment:
        if not self._plan.scratch:
            return segment
        if not isinstance(self._device, PlacesScratch):
            raise DeviceError(f"the plan places scratch in the slab, which a {self._device.kind} device does not do")
        region = self._plan.scratch[index]
        return self._device.with_scratch(segment, region.offset, region.bytes)

    def run_step(self) -> None:
        """Queue one whole step and wait for its end. Raises DeviceError when the device fails."""
        start = time.perf_counter_ns()
        self._queue()
        self._device.synchronize()
        self.drawn += 1
        if self._trial is not None:
            self._queue = self._trial.next(time.perf_counter_ns() - start)
            if self._trial.over:
                self._trial = None

    @property
    def parts(self) -> int:
        """How many parts run in a step."""
        return sum(part.loaded is not None for part in self._parts)

    @property
    def draws(self) -> bool:
        """Whether a step draws random numbers; `drawn` counts the steps that have, those of `rewind` included."""
        return bool(self._generators)

    @property
    def _generators(self) -> list[_Part]:
        ops = self._imported.graph.ops
        return [part for part in self._parts if part.executes and any(ops[op].random for op in part.executes.ops)]

    def rewind(self, steps: int) -> None:
        """Set every random generator to where it is after `steps` steps of a new process.

        A generator lives in its session, so each gets a new one that draws so often, or, where its seed tells where it
        is, begins there. Random operators write where they write in a step: what lies there must be put anew. Raises
        DeviceError where the device fails, and then nothing is known of the generators.
        """
        counted = advanced(self._imported, steps) if self._device.counts_seeds_up else self._imported
        for part in self._generators:
            if part.executes is None or part.loaded is None:
                raise InternalError("a random operator is not loaded")
            self._device.unload(part.loaded)
            is_counted = counted.nodes[self._node(part.executes)] is not self._imported.nodes[self._node(part.executes)]
            part.loaded = self._load(counted if is_counted else self._imported, part.executes)
            for _ in range(0 if is_counted or part.loaded is None else steps):
                self._device.launch(part.loaded)
        self._device.synchronize()
        self.drawn = steps

    def _node(self, part: Executed) -> int:
        return self._imported.graph.ops[part.ops[0]].node

    def _queue_step(self) -> None:
        events: dict[int, Event] = {}
        for part in self._parts:
            if part.submit:
                computed = self._device.record(Engine.COMPUTE)
                for index in part.submit:
                    self._submit(index, self._plan.copies[index], computed, events)
            for index in part.waits:
                self._device.wait(Engine.COMPUTE, events[index])
            if part.loaded is not None:
                self._device.launch(part.loaded)

    def _dependency_order(self, copies: Sequence[int]) -> list[int]:
        """The copies of one boundary so that each follows those it waits for; each direction keeps its order."""
        queues = [[i for i in copies if self._plan.copies[i].direction is direction] for direction in Direction]
        ordered: list[int] = []
        while len(ordered) < len(copies):
            pending = {i for queue in queues for i in queue}
            queue = next((q for q in queues if q and not pending & set(self._plan.copies[q[0]].waits)), None)
            if queue is None:
                raise InternalError("copies of one boundary wait for each other")
            ordered.append(queue.pop(0))
        return ordered

    def _submit(self, index: int, copy: Copy, computed: Event, events: dict[int, Event]) -> None:
        engine = _ENGINES[copy.direction]
        self._device.wait(engine, computed)
        for other in copy.waits:
            self._device.wait(engine, events[other])
        offset = self._plan.residencies[copy.residency].offset
        self._device.copy(engine, offset, copy.host_offset, copy.bytes)
        events[index] = self._device.record(engine)
