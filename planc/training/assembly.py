"""What every source of training graphs has in common: state in and out, updates, the finished model.

A source lowers the forward and backward operators of one batch with the builder, says where each gradient is complete and
nothing reads its parameter any more (`ready`), and asks for the finished model. Everything that makes this a *step* is
here: the updates are woven in, the pass is repeated for further micro-batches, hyper-parameters and state become inputs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from planc.graph import annotations
from planc.graph.annotations import node_annotation
from planc.graph.wellformed import is_undrawn
from planc.training.apply import Update
from planc.training.emit.builder import RANDOM_KEY, Array, Builder, LayerGroup, Var
from planc.training.emit.forms import OperatorForms
from planc.training.finish import MOVING, finish
from planc.training.micro_batches import MicroBatches, Ready, titled
from planc.training.optimizers import STEP, Optimizer, slots
from planc.training.ranks import (
    RANK_INPUT,
    RankKey,
    declare_rank,
    exchanged,
    nbytes,
    place_statistics,
    repeat_counts,
)
from planc.training.schedule import PREFIX, Schedule
from planc.training.shards import Shards, divided, step_hash
from planc.training.step_options import DynamicScale, ParameterGroup, StepOptions
from planc.training.updates import AVERAGE, LOSS_SCALE, Updates
from planc.training.weave import Weave

LOSS = "loss"

STATISTICS = "running_statistics"
"""Suffix of the layer that updates a forward layer's own state."""


@dataclass
class Assembly:
    """A training graph under construction.

    `groups` say which rule updates which parameter. `initial` are the values of state inputs, `kept` those of tensors that
    the step reads but never changes, `gathered` optimizer state that training elsewhere left behind, `following` the next
    value of each state input, `defaults` those of hyper-parameters.
    """

    b: Builder
    table: OperatorForms
    groups: Sequence[ParameterGroup] = ()
    options: StepOptions = field(default_factory=StepOptions)
    gathered: Mapping[str, Array] = field(default_factory=dict)
    batch: list[Var] = field(default_factory=list)
    initial: dict[str, TensorProto] = field(default_factory=dict)
    kept: dict[str, TensorProto] = field(default_factory=dict)
    following: dict[str, Var] = field(default_factory=dict)
    _ready: list[Ready] = field(default_factory=list)
    _scale: Var | None = None
    _shards: Shards | None = None
    _owners: Mapping[str, int] = field(default_factory=dict)
    _step_hash: str = ""

    def __post_init__(self) -> None:
        self.b.ranks = self.options.ranks
        if self.options.ranks > 1:
            self._declared(Var(RANK_INPUT, (), TensorProto.DOUBLE))

    # --- inputs

    def batch_input(self, name: str, shape: Sequence[int], dtype: int) -> Var:
        """Declare an input that every step is fed."""
        value = self._declared(Var(name, tuple(shape), dtype))
        self.batch.append(value)
        return value

    def tensor(self, name: str, initial: Array | TensorProto, changes: bool) -> Var:
        """Declare a state input with its initial value, or a constant where the step never changes it."""
        tensor = initial if isinstance(initial, TensorProto) else numpy_helper.from_array(initial, name)
        (self.initial if changes else self.kept)[name] = tensor
        return self._declared(Var(name, tuple(tensor.dims), tensor.data_type))

    def _declared(self, value: Var) -> Var:
        self.b.values[value.name] = value
        return value

    # --- what a source emits beside its operators

    def seed(self, loss: Var) -> Var:
        """The gradient of the loss: 1, or the loss scale, divided by the number of micro-batches of all ranks."""
        share, scale = 1 / self.options.batches, self.options.loss_scale
        if scale == 1.0:
            return self.b.full(loss.shape, share, loss.dtype)
        if isinstance(scale, DynamicScale):
            self._scale = self._declared(Var(LOSS_SCALE, (), TensorProto.FLOAT))
        else:
            self._scale = self._declared(Var(f"{PREFIX}{LOSS_SCALE}", (), TensorProto.DOUBLE))
        seed = self.b.mul(self.b.cast(self._scale, loss.dtype), share)
        return self.b.reshape(seed, loss.shape)

    def flush(self, updates: Iterable[Update], group: LayerGroup) -> None:
        """Emit the updates of a forward layer's own state, in an update group of their own."""
        self.b.group = LayerGroup(f"{group.layer}.{STATISTICS}", group.kind, "update")
        for update in updates:
            made = update(self.b)
            self.following.update(made)
            self._become_state(made)

    def ready(self, name: str, gradient: Var, group: LayerGroup) -> None:
        """The gradient of parameter `name` is complete, and nothing emitted from here on reads the parameter.

        `group` is that of the layer which completed it.
        """
        self._ready.append(Ready(name, gradient, group, len(self.b.nodes)))
        self._become_state([name])

    def _become_state(self, names: Iterable[str]) -> None:
        """Tensors that were declared constant change after all."""
        self.initial.update({name: self.kept.pop(name) for name in names if name in self.kept})

    def hold(self, name: str, following: Var, zeros: Array | None) -> None:
        """Record a state's next value, and its initial one unless training elsewhere left another.

        None for `zeros`: the state is declared already, or starts as the parameter it averages.
        """
        self.following[name] = following
        if name in self.gathered:
            self.initial[name] = numpy_helper.from_array(self.gathered[name], name)
        elif zeros is not None:
            self.initial[name] = self._beside(name, zeros)
        elif name not in self.initial:
            copy = TensorProto()
            copy.CopyFrom(self.initial[name.removesuffix(AVERAGE)])
            copy.name = name
            self.initial[name] = copy

    def _beside(self, name: str, zeros: Array) -> TensorProto:
        """The initial value of a state; without values where its parameter has none."""
        owner = self.initial.get(name.rpartition(".")[0])
        if owner is not None and is_undrawn(owner):
            return TensorProto(name=name, dims=zeros.shape, data_type=owner.data_type)
        return numpy_helper.from_array(zeros, name)

    # --- the model

    def finished(
        self,
        loss: Var,
        index_sizes: Mapping[str, int] | None = None,
        outputs: Mapping[str, Var] | None = None,
        title: str = LOSS,
    ) -> onnx.ModelProto:
        """The ONNX model; `index_sizes` says how many classes or rows each integer tensor indexes, `outputs` names what
        the step returns beside the loss, whose name is `title`."""
        by_rank = bool(self.b.gathered)
        self._ready = place_statistics(self.b, self._ready, self.options.bucket_bytes)
        self._ready = repeat_counts(self.b, self.following, self._ready)
        self._advance_key()
        carried = dict(self.following)
        key = RankKey(self.b, self.options.ranks, self.options.accumulate)
        drawing = key.used(self.b.nodes) if self.options.ranks > 1 else ""
        if drawing:
            carried[drawing] = carried.pop(RANDOM_KEY)
        passes = self._passes(carried)
        weave = Weave(self.b, passes.repeated())
        first = min((ready.position for ready in self._ready), default=len(passes.body))
        schedule = Schedule(weave, self.groups, weave.section(first))
        if by_rank or drawing:
            declare_rank(schedule)
        if drawing:
            carried.pop(drawing)
            self.hold(RANDOM_KEY, key.emit(weave), None)
        updates = self._updates(weave, schedule, passes)
        results = self._joined(weave, passes, {title: loss, **(outputs or {})}) | updates.outputs
        self.following.update({name: passes.value(value, passes.count - 1) for name, value in carried.items()})
        self.b.nodes = weave.woven()
        return self._model(results, title, schedule, passes, index_sizes or {})

    def _advance_key(self) -> None:
        """The next step's random numbers: the same seed, one step further, right behind the layer that reads them last."""
        b = self.b
        readers = [at for at, node in enumerate(b.nodes) if RANDOM_KEY in node.input]
        if not readers:
            return
        body, end = b.nodes, readers[-1] + 1
        while end < len(body) and node_annotation(body[end]) == node_annotation(body[readers[-1]]):
            end += 1
        b.nodes, b.group = [], LayerGroup(RANDOM_KEY, "random", "update")
        following = b.add(b.random_key(), b.ints((0, 1)))
        made, b.nodes = b.nodes, body
        body[end:end] = made
        self._ready = [
            replace(r, position=r.position + len(made)) if r.position > end else r for r in self._ready
        ]  # fmt: skip
        self.hold(RANDOM_KEY, following, np.array([self.options.seed, 0], np.int64))

    def _passes(self, carried: Mapping[str, Var]) -> MicroBatches:
        """The pass over each micro-batch, with inputs and draws of its own."""
        count = self.options.accumulate
        replaced = [{v.name: titled(v.name, copy) for v in self.batch} for copy in range(count)]
        for copy in range(1, count):
            for value in self.batch:
                self._declared(replace(value, name=titled(value.name, copy)))
        return MicroBatches(self.b, self.b.nodes, count, carried, replaced)

    def _updates(self, weave: Weave, schedule: Schedule, passes: MicroBatches) -> Updates:
        """Emit the updates of all parameters whose gradient is ready and that a group holds, and the step count's."""
        group_of = {name: at for at, group in enumerate(self.groups) for name in group.members}
        if self._scale is not None and not isinstance(self.options.loss_scale, DynamicScale):
            schedule.shared(LOSS_SCALE, self.options.loss_scale)
        ready = [entry for entry in self._ready if entry.name in group_of]
        if self.options.batches > 1:
            ready = [passes.accumulated(weave, r, self.b.values[r.name].dtype) for r in ready]
        hold = self.hold
        if self.options.sharded:
            self._shards = self._divided(weave, schedule, ready, group_of)
            hold, ready = self._shards.hold, self._shards.reduced()
        elif self.options.ranks > 1:
            ready = exchanged(weave, ready, self.options.ranks, self.options.bucket_bytes)
        updates = Updates(weave, schedule, self.options, group_of, self.table, hold, self._scale, self._shards)
        updates.emit(ready)
        if self._shards is not None:
            self._shards.finish()
        if schedule.following_step is not None:
            held = self.b.values[STEP]
            following = updates.counted(schedule.following_step, held)
            self.hold(STEP, following, np.zeros((), np.float32))
        return updates

    def _divided(self, weave: Weave, schedule: Schedule, ready: Sequence[Ready], group_of: Mapping[str, int]) -> Shards:
        """The parameters divided among the ranks, and the inputs that every rank has, whichever it updates."""
        held = {r.name: self._owned(r.name, self.groups[group_of[r.name]].rule) for r in ready}
        sizes = {name: nbytes(self.b.values[name]) + sum(states.values()) for name, states in held.items()}
        owners = divided(sizes, self.options.ranks)
        self._owners = {state: owners[name] for name, states in held.items() for state in states}
        self._step_hash = step_hash(weave, self.groups, self.options)
        schedule.declare(sorted({group_of[r.name] for r in ready}))
        for bound in ("clip_value", "clip_norm", "ema_decay"):
            if (value := getattr(self.options, bound)) is not None:
                schedule.shared(bound, value)
        return Shards(weave, ready, owners, self.options, self.hold)

    def _owned(self, name: str, rule: Optimizer) -> dict[str, int]:
        """What the owner of a parameter keeps for it alone: bytes by the state's name."""
        found = {slot.name: slot.initial.nbytes for slot in slots(rule, self.b.values[name]).values()}
        return found if self.options.ema_decay is None else found | {f"{name}{AVERAGE}": nbytes(self.b.values[name])}

    def _joined(self, weave: Weave, passes: MicroBatches, results: Mapping[str, Var]) -> dict[str, Var]:
        """Outputs over all micro-batches: the mean of scalars, other tensors one behind the other."""
        if passes.count == 1:
            return dict(results)
        found = {}
        with weave.filling(weave.last(), LayerGroup("micro_batches", "mean", "update")) as b:
            for name, value in results.items():
                parts = [passes.value(value, copy) for copy in range(passes.count)]
                if value.rank:
                    found[name] = b.concat(parts, 0)
                else:
                    total = b.op("Sum", parts, ())
                    found[name] = b.mul(total, 1 / passes.count)
        return found

    def _model(
        self,
        results: Mapping[str, Var],
        title: str,
        schedule: Schedule,
        passes: MicroBatches,
        index_sizes: Mapping[str, int],
    ) -> onnx.ModelProto:
        """Nodes, inputs, outputs and metadata as an ONNX model."""
        named = self._named({**results, **{f"{name}.next": value for name, value in self.following.items()}})
        batches = {v.name: [titled(v.name, copy) for copy in range(passes.count)] for v in self.batch}
        defaults = schedule.initial
        model = finish(
            self.b,
            batch=[self.b.values[name] for names in zip(*batches.values(), strict=True) for name in names],
            defaults=defaults,
            constants={**self.kept, **self.b.initializers},
            outputs=[named[name] for name in results],
            state={name: (tensor, named[f"{name}.next"]) for name, tensor in self.initial.items()},
            kernels=self.table.kernels,
        )
        ranges = {**annotations.read_json(model, annotations.INPUT_RANGES), **self._ranges(index_sizes)}
        ignored = annotations.read_json(model, annotations.IGNORED)
        ranges, ignored = (
            {titled(n, copy): found for n, found in of.items() for copy in range(passes.count)}
            for of in (ranges, ignored)
        )
        annotations.write_model(model, {
            annotations.LOSS: named[title].name,
            annotations.INPUT_RANGES: json.dumps(ranges),
            annotations.IGNORED: json.dumps(ignored),
            annotations.HYPERPARAMETERS: json.dumps(schedule.inputs),
            **({annotations.SHARDS: self._shares()} if self._shards is not None else {}),
            **({annotations.MICRO_BATCHES: json.dumps(batches)} if passes.count > 1 else {}),
        })  # fmt: skip
        return model

    def _shares(self) -> str:
        """What the step says of the other ranks' state."""
        return json.dumps({"rank": self.options.rank, "step": self._step_hash, "owners": dict(self._owners)})

    def _named(self, wanted: Mapping[str, Var]) -> dict[str, Var]:
        """Each output under its usual name, if no other tensor but one of the first micro-batch has that."""
        made = {o for node in self.b.nodes for o in node.output} if self.options.accumulate > 1 else set()
        ours = {value.name: name for name, value in wanted.items()}
        renamed = {value: name for value, name in ours.items() if name not in self.b.values or name in made}
        renamed |= {name: f"{name}@1" for name in renamed.values() if name in made and name not in renamed}
        self.b.values.update({n: replace(self.b.values[old], name=n) for old, n in renamed.items()})
        for node in self.b.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name in renamed:
                        names[position] = renamed[name]
        found = {name: replace(value, name=renamed.get(value.name, value.name)) for name, value in wanted.items()}
        self.b.values.update({value.name: value for value in found.values()})
        return found

    def _ranges(self, index_sizes: Mapping[str, int]) -> dict[str, list[int]]:
        """Valid values of the integer inputs that labels and indices are read from."""
        source = {o: n.input[0] for n in self.b.nodes if n.op_type in MOVING for o in n.output}
        batch, found = {v.name for v in self.batch}, dict[str, list[int]]()
        for name, size in index_sizes.items():
            while name in source:
                name = source[name]
            if name in batch:
                found[name] = [0, min(size, found.get(name, [0, size])[1])]
        return found
