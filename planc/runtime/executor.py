"""Executes a verified plan on a device: queues runs and copies with the waits the plan lists, and nothing else."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from planc.enums import Direction
from planc.errors import DeviceError, InternalError
from planc.importer.import_model import ImportedModel
from planc.importer.seeds import advanced, of_rank, with_seeds
from planc.importer.submodel import element_type, sub_model
from planc.plan.executed import Executed, executed
from planc.plan.plan import Copy, Plan
from planc.plan.residency_index import ResidencyIndex
from planc.runtime.device import Device, Engine, Event, Exchanges, LoadedSegment, TensorAddress
from planc.runtime.scratch import PlacesScratch
from planc.runtime.signals import handle_waiting

_SIGNALS_EVERY = 1000
"""Launches between two looks for signals, where generators are brought to where they were."""

_ENGINES = {Direction.OUT: Engine.OUT, Direction.IN: Engine.IN}


@dataclass(slots=True)
class _Part:
    """A part of a segment: copies to submit before it, copies to await, what it executes, None behind the last, and that
    as loaded, None where it has nothing to compute."""

    submit: list[int]
    waits: list[int]
    executes: Executed | None = None
    loaded: LoadedSegment | None = None
    exchanges: list[int] = field(default_factory=list)
    """Exchanges to submit before it."""
    awaited: list[int] = field(default_factory=list)


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
        rank: int = 0,
    ) -> None:
        self._plan, self._device = plan, device
        self._imported = of_rank(with_seeds(imported, seed), rank)
        self._queue: Callable[[], None] = self._queue_step
        always = bool(replay) or bool(plan.exchanges)  # ranks record alike: NCCL knows sums recorded on some only not
        self._trial = None if replay is False else _Trial(self._queue_step, device.capture, always)
        self.residencies = ResidencyIndex(plan.residencies)
        self.drawn = 0
        self._parts: list[_Part] = []
        starting: defaultdict[int, list[int]] = defaultdict(list)
        for index, copy in enumerate(plan.copies):
            starting[copy.after].append(index)
        self._operands = [self._summed(exchange.run) for exchange in plan.exchanges]
        segment = -1
        for part in executed(imported.graph, plan.runs, plan.segments, self.residencies):
            progress(part.segment, len(plan.segments))
            runs = plan.runs[part.first : part.end] if part.segment > segment else ()
            segment, waits = part.segment, [c for run in runs for c in run.waits]
            submit = self._dependency_order(starting.pop(part.first, []))
            self._parts.append(_Part(submit, waits, part, self._load(self._imported, part)))
            if runs:
                ours = enumerate(plan.exchanges)
                self._parts[-1].exchanges = [i for i, e in ours if e.after == part.first]
                self._parts[-1].awaited = [i for i, e in enumerate(plan.exchanges) if e.run == part.first]
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

    def _summed(self, run: int) -> list[TensorAddress]:
        """The operands of the exchange that a run awaits."""
        graph, plan, found = self._imported.graph, self._plan, list[TensorAddress]()
        sizes = [graph.layers[r.layer].stop - graph.layers[r.layer].start for r in plan.runs[: run + 1]]
        layer = graph.layers[plan.runs[run].layer]
        for slot, op in enumerate(range(layer.start, layer.stop), sum(sizes[:-1])):
            index = graph.ops[op].outputs[0]
            tensor = graph.tensors[index]
            offset = self.residencies.offset(graph.storages[tensor.storage].name, slot) + tensor.offset
            found.append(TensorAddress(offset, element_type(self._imported, index), tensor.shape))
        return found

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

    def wind(self, steps: int, anew: bool) -> None:
        """Set every random generator to where it is after `steps` steps of a new process.

        A generator lives in its session. One that is not there yet draws as often as is missing; with `anew`, or to go
        back, each gets a new session that draws so often, or, where its seed tells where it is, begins there. Random
        operators write where they write in a step: what lies there must be put anew. Raises DeviceError where the device
        fails, and what a signal's handler raises, which need not wait until the end: then nothing is known of the
        generators.
        """
        if anew or steps < self.drawn:
            self._begin_anew(steps)
        else:
            for part in self._generators:
                self._draw(part, steps - self.drawn)
        self._device.synchronize()
        self.drawn = steps

    def _begin_anew(self, steps: int) -> None:
        """A new session for every generator, `steps` steps on."""
        counted = advanced(self._imported, steps) if self._device.counts_seeds_up else self._imported
        for part in self._generators:
            if part.executes is None or part.loaded is None:
                raise InternalError("a random operator is not loaded")
            self._device.unload(part.loaded)
            is_counted = counted.nodes[self._node(part.executes)] is not self._imported.nodes[self._node(part.executes)]
            part.loaded = self._load(counted if is_counted else self._imported, part.executes)
            self._draw(part, 0 if is_counted else steps)

    def _draw(self, part: _Part, count: int) -> None:
        """Run a random operator so often."""
        for draw in range(0 if part.loaded is None else count):
            if draw % _SIGNALS_EVERY == 0:
                handle_waiting()  # a million draws take seconds, and a file may name any number
            self._device.launch(part.loaded)

    def _node(self, part: Executed) -> int:
        return self._imported.graph.ops[part.ops[0]].node

    def _queue_step(self) -> None:
        events: dict[int, Event] = {}
        exchanged: dict[int, Event] = {}
        for part in self._parts:
            for index in part.exchanges:
                exchanged[index] = self._exchange(index)
            if part.submit:
                computed = self._device.record(Engine.COMPUTE)
                for index in part.submit:
                    self._submit(index, self._plan.copies[index], computed, events)
            for index in part.waits:
                self._device.wait(Engine.COMPUTE, events[index])
            for index in part.awaited:
                self._device.wait(Engine.COMPUTE, exchanged[index])
            if part.loaded is not None:
                self._device.launch(part.loaded)

    def _exchange(self, index: int) -> Event:
        if not isinstance(self._device, Exchanges):
            raise DeviceError(f"the plan exchanges gradients, which a {self._device.kind} device does not do")
        self._device.wait(Engine.EXCHANGE, self._device.record(Engine.COMPUTE))
        exchange = self._plan.exchanges[index]
        self._device.exchange(exchange.kind, self._operands[index], exchange.roots)
        return self._device.record(Engine.EXCHANGE)

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
