"""The frozen graph of one training step: tensors, the storages behind them, operators, layers.

Tensors that share bytes (views; a state input and the output that replaces it) share one storage: planning, placement
and verification speak of storages, and only the binding of a session speaks of tensors. View operators are not in
`ops`: nothing has to run for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from planc.enums import ExchangeKind
from planc.kernels.exchange import exchange_kind, is_exchange


class Role(StrEnum):
    """Where a storage's first content comes from."""

    BATCH = "batch"
    """Fed anew each step."""

    STATE = "state"
    """Carried from step to step, mutated in place by the update."""

    CONSTANT = "constant"
    """An initializer that no state output replaces."""

    COMPUTED = "computed"
    """Written by an operator of the step."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the ONNX graph. `dtype` is numpy's name (`float32`); `storage` indexes `Graph.storages`.

    `updated` marks the next value of a state (and views of it), which shares its storage with the old value. The tensor
    starts `offset` bytes behind its storage: views of a piece may start anywhere, every other tensor at 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    storage: int
    updated: bool = False
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes behind one or more tensors, named after the first; `nbytes` is where the last of them ends."""

    name: str
    nbytes: int
    role: Role
    tensors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One operator to execute. `inputs` and `outputs` index `Graph.tensors`, -1 where an optional one is absent.

    `node` is the position of its node in the ONNX model. Inputs that are small constants live inside the session and
    are listed in `constants` (tensor indices) instead of being bound. `root` is the rank that an exchange reduces to or
    gives from, -1 for none.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: frozenset[int]
    node: int
    random: bool
    root: int = -1


@dataclass(frozen=True)
class Shards:
    """Of a step that is one rank's alone: which, a hash that the steps of all ranks share, and which rank each state
    belongs to that only one has, those of other ranks included."""

    rank: int
    step: str
    owners: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """The unit of planning: the consecutive operators [`start`, `stop`) of one framework-level layer in one phase."""

    name: str
    kind: str
    phase: str
    start: int
    stop: int

    @property
    def title(self) -> str:
        """Name and phase, unique within a graph's annotations: `layer1.0.conv1 backward`."""
        return f"{self.name} {self.phase}"


@dataclass(frozen=True)
class Graph:
    """A training step in execution order. `outputs` are tensor indices; `state` maps state input to state output.

    `input_ranges` has the valid values [low, high) of integer inputs by name, `ignored` one more for labels.
    `hyperparameters` names the inputs that have a default.
    """

    tensors: tuple[Tensor, ...]
    storages: tuple[Storage, ...]
    ops: tuple[Op, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    state: dict[int, int]
    loss: int | None
    input_ranges: dict[str, tuple[int, int]]
    content_hash: str
    ignored: dict[str, int] = field(default_factory=dict)
    hyperparameters: frozenset[str] = frozenset()
    ranks: int = 1
    """How many ranks run the step at once."""
    shards: Shards | None = None
    """Of a step whose optimizer state is divided among the ranks."""

    def exchange(self, layer: int) -> tuple[ExchangeKind, tuple[int, ...]]:
        """What the exchange engine does for a layer that it computes, and the root of each tensor where it has one."""
        ops = self.ops[self.layers[layer].start : self.layers[layer].stop]
        kind = exchange_kind(ops[0].op_type, ops[0].domain)
        return kind or ExchangeKind.ALL_REDUCE, tuple(op.root for op in ops if op.root >= 0)

    def is_exchange(self, layer: int) -> bool:
        """Whether the exchange engine computes the layer, with those of the other ranks."""
        op = self.ops[self.layers[layer].start]
        return self.ranks > 1 and is_exchange(op.op_type, op.domain)

    @cached_property
    def op_reads(self) -> tuple[tuple[int, ...], ...]:
        """Storages that each operator reads, without repetition, small constants left out."""
        return tuple(
            tuple(dict.fromkeys(self.tensors[t].storage for t in op.inputs if t >= 0 and t not in op.constants))
            for op in self.ops
        )

    @cached_property
    def op_writes(self) -> tuple[tuple[int, ...], ...]:
        """Storages that each operator writes."""
        return tuple(tuple(dict.fromkeys(self.tensors[t].storage for t in op.outputs if t >= 0)) for op in self.ops)

    @cached_property
    def last_read(self) -> tuple[int, ...]:
        """For each storage the last operator that reads or writes it in the given order; -1 where none does."""
        last = [-1] * len(self.storages)
        for index in range(len(self.ops)):
            for storage in (*self.op_reads[index], *self.op_writes[index]):
                last[storage] = index
        return tuple(last)

    @cached_property
    def output_storages(self) -> frozenset[int]:
        """Storages that the caller reads after the step, state left out."""
        replaced = set(self.state.values())
        return frozenset(self.tensors[t].storage for t in self.outputs if t not in replaced)

    @cached_property
    def used_storages(self) -> frozenset[int]:
        """Storages that take device bytes: read or written by some operator, or a graph output."""
        used = {s for reads in self.op_reads for s in reads} | {s for writes in self.op_writes for s in writes}
        return frozenset(used | self.output_storages)


def input_roles(graph: Graph) -> dict[str, str]:
    """Role of every storage that exists before a step and takes device bytes, by name."""
    used = (graph.storages[s] for s in sorted(graph.used_storages))
    return {storage.name: storage.role.value for storage in used if storage.role is not Role.COMPUTED}
