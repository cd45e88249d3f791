"""A step of several ranks: what each of them computes alone, exchanged so that state stays the same on all.

Gradients are summed in buckets, each in a layer of its own that the exchange engine computes. A bucket is awaited where
the next one is complete, so that the backward pass of the next hides its exchange; its updates follow. Behind the last
bucket no backward pass is left: it is small, and the updates of those before it wait, to hide its exchange.

Running statistics pass through the ranks in their order, as they pass from one micro-batch to the next: every rank puts
its batch's statistics into its row of a table of zeros, the tables are summed, and the rows are taken in one by one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from planc.graph.annotations import RANK, node_annotation
from planc.kernels.exchange import ALL_REDUCE
from planc.training.emit.builder import RANDOM_KEY, Builder, LayerGroup, Var
from planc.training.layout.readers import read_instead
from planc.training.micro_batches import Ready
from planc.training.schedule import PREFIX, Schedule
from planc.training.weave import Weave

RANK_INPUT = f"{PREFIX}{RANK}"

_RANK_KEY = f"{RANDOM_KEY}.{RANK}"

_HIDING = 3
"""Bytes of gradients whose updates take about as long as the exchange of one byte: an update moves five to seven times its
gradient's bytes, within a device's memory, which is over ten times as fast as the way between devices."""

_KIND, _STATISTICS = "exchange", "statistics"


def exchange_group(name: str) -> LayerGroup:
    """The layer of one exchange."""
    return LayerGroup(f"{_KIND}.{name}", _KIND, "update")


def buckets_of(gradients: Sequence[Ready], limit: int) -> list[list[Ready]]:
    """The gradients in the order in which they are ready, in buckets that are full with `limit` bytes; the last ones with
    less, down to an eighth: an exchange begins when its bucket is complete."""
    buckets: list[list[Ready]] = [[]]
    held, full = 0, max(1, limit // 8)
    for ready in sorted(gradients, key=lambda r: r.position, reverse=True):
        if held >= full:
            buckets.append([])
            held, full = 0, min(limit, 2 * full)
        buckets[-1].append(ready)
        held += nbytes(ready.gradient)
    return [bucket[::-1] for bucket in reversed(buckets) if bucket]


def await_positions(buckets: Sequence[Sequence[Ready]]) -> list[int]:
    """Where each bucket is awaited: where the next one is complete, the last where it is itself."""
    ends = [bucket[-1].position for bucket in buckets]
    return [*ends[1:], *ends[-1:]]


def turn_of(index: int) -> int:
    """The turn of what follows from a bucket among all that stands at one place: behind what makes gradients there, and
    behind what follows from the buckets before."""
    return index + 1


def exchanged(weave: Weave, gradients: Sequence[Ready], ranks: int, limit: int) -> list[Ready]:
    """The sums of all gradients over the ranks, each ready where its bucket is awaited."""
    buckets = buckets_of(gradients, limit)
    waiting, found = _hiding(buckets), []
    for index, (bucket, position) in enumerate(zip(buckets, await_positions(buckets), strict=True)):
        position, turn = (buckets[-1][-1].position if index >= waiting else position), turn_of(index)
        with weave.filling(weave.section(position, turn), exchange_group(str(index))) as b:
            for ready in bucket:
                (total,) = b.kernel(ALL_REDUCE, [ready.gradient], ranks=ranks)
                found.append(replace(ready, gradient=total, position=position, turn=turn))
    return found


def _hiding(buckets: Sequence[Sequence[Ready]]) -> int:
    """The first bucket of those whose updates wait until the last bucket is complete: they take as long as its exchange."""
    sizes = [sum(nbytes(ready.gradient) for ready in bucket) for bucket in buckets]
    first, held = max(0, len(sizes) - 1), 0
    while first > 0 and held < _HIDING * sizes[-1]:
        first -= 1
        held += sizes[first]
    return first


# --- running statistics


def of_all_ranks(b: Builder, batch: Var) -> list[Var]:
    """A vector of this batch's statistics, followed by those of the other ranks' batches: all of them in order.

    What sums them up is emitted by `place_statistics`.
    """
    if b.ranks == 1:
        return [batch]
    table = Var(f"{_STATISTICS}.{len(b.gathered)}", (b.ranks, *batch.shape), batch.dtype)
    b.values[table.name] = table
    b.gathered.append((batch, table))
    return [b.reshape(b.slice(table, {0: (rank, rank + 1, 1)}), batch.shape) for rank in range(b.ranks)]


def place_statistics(b: Builder, ready: Sequence[Ready], limit: int) -> list[Ready]:
    """Sum the tables in one exchange: filled behind the forward pass, awaited with the first bucket of gradients, what
    depends on them behind that. Returns `ready` with the positions of the changed body."""
    if not b.gathered:
        return list(ready)
    body, moved = list(b.nodes), _dependent(b)
    gone = {id(node) for node in moved}
    kept = [node for node in body if id(node) not in gone]
    phases = [(node_annotation(node) or ("", "", ""))[2] for node in kept]
    filled_at = phases.index("backward") if "backward" in phases else len(kept)
    shifted = _without(body, moved, ready)
    awaited_at = max(filled_at, buckets_of(shifted, limit)[0][-1].position if shifted else len(kept))
    filled: list[onnx.NodeProto] = []
    b.nodes = filled
    tables = _fill(b)
    b.nodes, b.group = [], exchange_group(_STATISTICS)
    for (_, table), filling in zip(b.gathered, tables, strict=True):
        b.kernel(ALL_REDUCE, [filling], names=[table.name], ranks=b.ranks)
    awaited = [*b.nodes, *moved]
    b.nodes = [*kept[:filled_at], *filled, *kept[filled_at:awaited_at], *awaited, *kept[awaited_at:]]
    b.gathered.clear()
    return [
        replace(
            r,
            position=r.position
            + (len(filled) if r.position >= filled_at else 0)
            + (len(awaited) if r.position > awaited_at else 0),
        )
        for r in shifted
    ]


def repeat_counts(b: Builder, following: Mapping[str, Var], ready: Sequence[Ready]) -> list[Ready]:
    """Let what counts batches, and depends on nothing else, count those of all ranks. Returns `ready` with the positions
    of the changed body."""
    ready = list(ready)
    if b.ranks == 1:
        return ready
    places = _makers(b.nodes)
    for name, value in following.items():
        at = places.get(value.name)
        if at is None or name == RANDOM_KEY:
            continue
        node, end = b.nodes[at], at
        if {i for i in node.input if i not in b.initializers} != {name}:
            continue
        before = name
        for turn in range(b.ranks - 1):
            earlier = onnx.NodeProto()
            earlier.CopyFrom(node)
            earlier.name = f"{node.name}.{turn}"
            earlier.output[0] = made_name = f"{value.name}.rank{turn}"
            read_instead(earlier, {name: before})
            b.values[made_name] = replace(value, name=made_name)
            b.nodes.insert(end, earlier)
            before, end = made_name, end + 1
        read_instead(node, {name: before})
        ready = [replace(r, position=r.position + b.ranks - 1) if r.position > at else r for r in ready]
        places = _makers(b.nodes)
    return ready


def _makers(nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    """The position of the node that makes each value."""
    return {name: at for at, node in enumerate(nodes) for name in node.output}


def _without(body: Sequence[onnx.NodeProto], moved: Sequence[onnx.NodeProto], ready: Sequence[Ready]) -> list[Ready]:
    """`ready` with positions among the nodes that are not moved."""
    gone = {id(node) for node in moved}
    before = np.cumsum([0, *(id(node) in gone for node in body)])
    return [replace(r, position=r.position - int(before[r.position])) for r in ready]


def _dependent(b: Builder) -> list[onnx.NodeProto]:
    """The nodes that need a table, and those of updates that make what only these read: in order."""
    waiting = {table.name for _, table in b.gathered}
    found = set[int]()
    for at, node in enumerate(b.nodes):
        if not waiting.isdisjoint(node.input):
            found.add(at)
            waiting.update(node.output)
    readers = defaultdict[str, set[int]](set)
    for at, node in enumerate(b.nodes):
        for name in node.input:
            readers[name].add(at)
    for at in reversed(range(len(b.nodes))):
        node = b.nodes[at]
        reading = set[int]().union(*(readers[name] for name in node.output))
        if (node_annotation(node) or ("", "", ""))[2] == "update" and reading and reading <= found:
            found.add(at)
    return [b.nodes[at] for at in sorted(found)]


def _fill(b: Builder) -> list[Var]:
    """Each table with zeros in the rows of other ranks."""
    b.group = LayerGroup(f"{_KIND}.{_STATISTICS}.table", _STATISTICS, "update")
    rank = b.values[RANK_INPUT]
    mine = b.compare("Equal", b.ints(range(b.ranks)), b.cast(rank, TensorProto.INT64))
    tables = []
    for batch, _ in b.gathered:
        row, column = b.reshape(batch, (1, *batch.shape)), b.reshape(mine, (b.ranks, *[1] * batch.rank))
        zero = b.full((1,) * (batch.rank + 1), 0.0, batch.dtype)
        tables.append(b.op("Where", [column, row, zero], (b.ranks, *batch.shape), batch.dtype))
    return tables


# --- random numbers


@dataclass
class RankKey:
    """The key of random numbers in a step of `ranks` ranks of `accumulate` micro-batches each: every micro-batch of every
    rank draws what it would draw if one process ran all of them in order."""

    b: Builder
    ranks: int
    accumulate: int

    def used(self, nodes: Sequence[onnx.NodeProto]) -> str:
        """Let the body read a key of the rank's own; returns its name, empty where nothing reads a key."""
        readers = [node for node in nodes if RANDOM_KEY in node.input]
        for node in readers:
            read_instead(node, {RANDOM_KEY: _RANK_KEY})
        return _RANK_KEY if readers else ""

    def emit(self, weave: Weave) -> Var:
        """The rank's key, ahead of everything; returns the key of the next step."""
        with weave.filling(weave.section(0), LayerGroup(RANDOM_KEY, "random", "update")) as b:
            key, rank = b.random_key(), b.cast(b.values[RANK_INPUT], TensorProto.INT64)
            first = b.mul(b.reshape(rank, (1,)), b.ints((0, self.accumulate)))
            b.op("Add", [key, first], key.shape, key.dtype, name=_RANK_KEY)
            return b.add(key, b.ints((0, self.ranks * self.accumulate)))


def declare_rank(schedule: Schedule) -> None:
    """Make the rank an input of the step, 0 where nobody says otherwise."""
    schedule.shared(RANK, 0.0)


def nbytes(value: Var) -> int:
    """Bytes of a tensor."""
    return value.size * np.dtype(helper.tensor_dtype_to_np_dtype(value.dtype)).itemsize
