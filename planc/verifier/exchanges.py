"""Exchanges: one for every run of such, in the order of the runs, in bytes that nothing else touches meanwhile; and a
state that is the same after the step, if it was before, on every rank that has it."""

from collections.abc import Collection, Iterator
from functools import reduce
from typing import NamedTuple

from planc.enums import ExchangeKind
from planc.graph.graph import Graph, Layer, Op, Role, Tensor
from planc.plan.plan import Plan
from planc.verifier.content import ContentCheck
from planc.verifier.operators import exchange_kind
from planc.verifier.violation import Violation


def _ops(layer: Layer) -> range:
    return range(layer.start, layer.stop)


def check_exchange_form(graph: Graph, plan: Plan) -> Iterator[Violation]:
    """Every run of exchanges has its item, in the order of runs, which starts and is awaited between two segments."""
    layers = [graph.layers[run.layer] for run in plan.runs]
    awaiting = [at for at, layer in enumerate(layers) if any(exchange_kind(graph.ops[op]) for op in _ops(layer))]
    rank = None if graph.shards is None else graph.shards.rank
    if plan.rank != rank:
        yield Violation("ranks", "plan", f"it is that of rank {plan.rank}, the model that of rank {rank}")
    if plan.ranks != graph.ranks:
        yield Violation("ranks", "plan", f"it is for {plan.ranks} ranks, the model for {graph.ranks}")
    if [exchange.run for exchange in plan.exchanges] != awaiting:
        text = f"runs {[e.run for e in plan.exchanges]} await one; expected the runs that sum over ranks, {awaiting}"
        yield Violation("exchange order", "exchanges", text)
        return
    firsts, before = {first for first, _ in plan.segments}, 0
    for index, exchange in enumerate(plan.exchanges):
        where, layer = f"exchange {index}", layers[exchange.run]
        if not 0 <= exchange.after <= exchange.run or exchange.after < before:
            text = f"it starts after run {exchange.after}; expected between {before} and {exchange.run}"
            yield Violation("exchange order", where, text)
        if not {exchange.after, exchange.run} <= firsts:
            yield Violation("segments", where, "it starts or is awaited in the middle of a segment")
        before = exchange.after
        tensors = [graph.tensors[graph.ops[op].outputs[0]] for op in _ops(layer)]
        if {exchange_kind(graph.ops[op]) for op in _ops(layer)} != {exchange.kind}:
            yield Violation("exchange", where, f"layer {layer.title!r} is no {exchange.kind}, or more than that")
        if exchange.roots != tuple(graph.ops[op].root for op in _ops(layer) if graph.ops[op].root >= 0):
            yield Violation("exchange", where, f"its roots are {exchange.roots}, those of layer {layer.title!r} others")
        if exchange.tensors != tuple(t.name for t in tensors) or exchange.bytes != sum(t.nbytes for t in tensors):
            yield Violation("exchange", where, f"it does not name the tensors and bytes of layer {layer.title!r}")


def check_exchanges(check: ContentCheck) -> Iterator[Violation]:
    """Operands are written before the exchange may start, which then has their bytes for itself, and sums lie there.

    `check` has been run, so its `uses` say what touches which residency.
    """
    slot, first = 0, list[int]()
    for run in check.plan.runs:
        first.append(slot)
        slot += len(_ops(check.graph.layers[run.layer]))
    for index, exchange in enumerate(check.plan.exchanges):
        layer = check.graph.layers[check.plan.runs[exchange.run].layer]
        start = first[exchange.after] if exchange.after < len(first) else slot
        for at, op in enumerate(_ops(layer), first[exchange.run]):
            yield from _operand(check, index, op, start, at)


def _operand(check: ContentCheck, index: int, op: int, start: int, awaited: int) -> Iterator[Violation]:
    """One sum of exchange `index`, which may run from slot `start` on and is there at slot `awaited`."""
    graph, info, where = check.graph, check.graph.ops[op], f"exchange {index}"
    source, total = (graph.tensors[t] for t in (info.inputs[0], info.outputs[0]))
    name = graph.storages[source.storage].name
    found = [i for i in check.inputs_at(awaited) if i is not None]
    operand = next((i for i in found if check.storage_of[check.plan.residencies[i].storage] == source.storage), None)
    if operand is None or graph.storages[source.storage].role is not Role.COMPUTED:
        yield Violation("exchange", where, f"{name!r} is no computed tensor in the slab")
        return
    use, residency = check.uses[operand], check.plan.residencies[operand]
    if use.written_at is None or use.written_at >= start:
        yield Violation("read before written", where, f"{name!r} may not be complete when it starts")
    if use.copies or any(i == operand for i in _outgoing(check, total.storage, awaited)):
        yield Violation("race", where, f"a copy touches {name!r}, whose bytes it sums")
    for slot in range(start, awaited):
        other = check.slots[slot][1]
        if source.storage in (*graph.op_reads[other], *graph.op_writes[other]):
            text = f"operator {graph.ops[other].name!r} touches {name!r} while its bytes are summed"
            yield Violation("race", where, text)
    if check.address(total.storage, awaited) != residency.offset or source.offset or total.offset:
        yield Violation("exchange", where, f"the sum of {name!r} does not lie in its bytes")


def _outgoing(check: ContentCheck, storage: int, slot: int) -> list[int]:
    """Residencies of the sum that a copy reads before its exchange is awaited."""
    run = check.slots[slot][0]
    return [
        i
        for i in check.residencies[storage]
        for copy in check.uses[i].copies
        if check.uses[i].written_at == slot and not check.order.run_before_copy(run, copy)
    ]


class _Sources(NamedTuple):
    """What a tensor depends on."""

    own: bool = False
    """The rank's own batch, other than through a sum over all ranks."""
    alone: bool = False
    """State, or a sum, that this rank alone has."""


def check_ranks(graph: Graph) -> Iterator[Violation]:
    """State that all ranks have depends on what all ranks have: what a rank computes of its own batch reaches it through
    sums, and what one rank alone has by being given to all. State that one rank has depends on no rank's own batch."""
    if graph.ranks == 1:
        return
    yield from _misplaced(graph)
    owned = _owned(graph)
    sources = _before(graph, owned)
    for op in graph.ops:
        found = (sources.get(_key(graph.tensors[t]), _Sources()) for t in op.inputs if t >= 0)
        after = _after(op, reduce(_joined, found, _Sources()), graph)
        for tensor in (graph.tensors[t] for t in op.outputs if t >= 0):
            whole = tensor.nbytes == graph.storages[tensor.storage].nbytes
            sources[_key(tensor)] = after if whole else _joined(after, sources.get(_key(tensor), _Sources()))
    for name, following in graph.state.items():
        found_of, title = sources.get(_key(graph.tensors[following]), _Sources()), graph.tensors[name].name
        if found_of.own:
            text = "its next value depends on the rank's own batch other than through a sum over all ranks"
            yield Violation("ranks differ", repr(title), text)
        elif found_of.alone and title not in owned:
            text = "its next value depends on what this rank alone has, and is not given to the others"
            yield Violation("ranks differ", repr(title), text)


def _joined(one: _Sources, other: _Sources) -> _Sources:
    return _Sources(one.own or other.own, one.alone or other.alone)


def _after(op: Op, read: _Sources, graph: Graph) -> _Sources:
    """What an operator's output depends on, by what its inputs do."""
    kind = exchange_kind(op)
    if kind in (ExchangeKind.ALL_REDUCE, ExchangeKind.BROADCAST):
        return _Sources()
    if kind is ExchangeKind.REDUCE:
        return _Sources(own=graph.shards is None or op.root != graph.shards.rank, alone=True)
    return _Sources(read.own or op.random, read.alone)


def _before(graph: Graph, owned: Collection[str]) -> dict[tuple[int, bool], _Sources]:
    """What the step begins with and not all ranks have alike."""
    own = {t for t in graph.inputs if graph.storages[graph.tensors[t].storage].role is Role.BATCH}
    own -= {t for t in own if graph.tensors[t].name in graph.hyperparameters and not _is_rank(graph, t)}
    alone = {t for t in graph.state if graph.tensors[t].name in owned}
    return {_key(graph.tensors[t]): _Sources(t in own, t in alone) for t in own | alone}


def _key(tensor: Tensor) -> tuple[int, bool]:
    """A version of a storage."""
    return tensor.storage, tensor.updated


def _owned(graph: Graph) -> set[str]:
    """State that this rank alone has."""
    shards = graph.shards
    return set() if shards is None else {name for name, owner in shards.owners.items() if owner == shards.rank}


def _misplaced(graph: Graph) -> Iterator[Violation]:
    """The rank is one of them, as are all roots and owners, and the state is that which it owns and all have."""
    ranks, shards = range(graph.ranks), graph.shards
    for op in graph.ops:
        if exchange_kind(op) not in (None, ExchangeKind.ALL_REDUCE) and (shards is None or op.root not in ranks):
            yield Violation(
                "ranks", repr(op.name), f"its root is {op.root}; expected one of {graph.ranks} ranks' steps"
            )
    if shards is None:
        return
    if not {shards.rank, *shards.owners.values()} <= set(ranks):
        yield Violation("ranks", "model", f"it is of rank {shards.rank} and has owners beyond {graph.ranks} ranks")
    here = {graph.tensors[t].name for t in graph.state} & shards.owners.keys()
    for name in sorted(here ^ _owned(graph)):
        text = (
            f"it belongs to rank {shards.owners[name]}, and rank {shards.rank} {'has' if name in here else 'lacks'} it"
        )
        yield Violation("ranks", repr(name), text)


_RANK = "optimizer.rank"


def _is_rank(graph: Graph, tensor: int) -> bool:
    """Whether the input says which of the ranks this is."""
    return graph.tensors[tensor].name == _RANK
