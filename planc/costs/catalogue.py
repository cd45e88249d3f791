"""Estimated cost tables for cards that are not here, from published specifications.

A layer lasts as long as a roofline says (Williams, Waterman and Patterson, Roofline, 2009): for each operator the
larger of its arithmetic at the sustained share of the peak rate of its class and its bytes at the sustained share of
memory bandwidth, plus the time that a replayed kernel takes to start. Every table made here is marked `estimated`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from planc.costs.cards import CARDS, Card
from planc.costs.table import (
    EXCHANGED,
    CopyPoint,
    CostTable,
    DeviceInfo,
    ExchangeLink,
    ExchangePoint,
    LayerCost,
    Link,
)
from planc.devices import device_words
from planc.errors import UsageError
from planc.graph.graph import Graph, Op
from planc.kernels import DOMAIN, Call
from planc.kernels.device import SourceKernel, Variants
from planc.units import NS_PER_S

CARD_KIND = "cuda"
"""The kind of device that the catalogue's cards are."""

UNCERTAINTY = 0.5
"""Times may be off by this share of themselves either way. The ResNet-50 and GPT-2 steps measured on an H100 lie inside
(docs/gpu.md); nothing was measured on the other cards."""

_VIEWS = {"Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"}
_MATRIX = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
_SIZES = tuple(4096 * 4**step for step in range(8))


@dataclass(frozen=True)
class Demand:
    """What an operator asks of a card: floating-point operations, bytes read and written, whether matrix units do it."""

    flops: int
    moved_bytes: int
    matrix: bool


def card_names() -> tuple[str, ...]:
    """Names that `estimate` takes."""
    return tuple(sorted(CARDS))


def unknown_device(name: str) -> UsageError:
    """What is said of a device that is none."""
    return UsageError(
        f"unknown device {name!r}: planc measures and runs on {device_words()}, and estimates for "
        f"{', '.join(card_names())}"
    )


def estimate(graph: Graph, name: str, calls: Mapping[str, Call]) -> CostTable:
    """The estimated table of a model on card `name`; `calls` are planc's own operators in it, by operator type. Raises
    UsageError for an unknown card."""
    card = CARDS.get(name)
    if card is None:
        raise unknown_device(name)
    costs: dict[tuple[int, int], LayerCost] = {}
    ranks: dict[tuple[int, int], int] = {}
    layers = []
    for index, layer in enumerate(graph.layers):
        exchanged = graph.is_exchange(index)
        cost = EXCHANGED if exchanged else _layer(graph, card, range(layer.start, layer.stop), calls)
        key = (cost.compute_ns, cost.scratch_bytes)
        costs.setdefault(key, cost)
        layers.append(ranks.setdefault(key, len(ranks)))
    return CostTable(
        model_hash=graph.content_hash,
        device=DeviceInfo(name=card.title, kind=CARD_KIND, memory_bytes=card.memory_bytes, versions={"card": name}),
        unique=tuple(costs.values()),
        layers=tuple(layers),
        link=_link(card),
        boundary_ns=card.sustained.boundary_ns,
        estimated=True,
        exchange=estimate_exchange(name, graph.ranks) if graph.ranks > 1 else None,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def estimate_exchange(name: str, ranks: int) -> ExchangeLink:
    """The estimated way between `ranks` cards `name` of one host: in a ring, 2 (N - 1) / N of the bytes leave each."""
    card = CARDS[name]
    share = card.sustained
    points = tuple(
        ExchangePoint(size=size, ns=share.exchange_ns + round(size * 2 * (ranks - 1) / ranks * NS_PER_S / rate))
        for size in _SIZES
        for rate in (card.peer * share.peer,)
    )
    return ExchangeLink(
        ranks=ranks,
        points=points,
        name=f"{card.title}, estimated",
        compute_exchange_ppm=share.compute_exchange_ppm,
    )


def _layer(graph: Graph, card: Card, ops: range, calls: Mapping[str, Call]) -> LayerCost:
    time, scratch, share = 0.0, 0, card.sustained
    for index in ops:
        op = graph.ops[index]
        if op.op_type in _VIEWS:
            continue
        own = calls.get(op.op_type) if op.domain == DOMAIN else None
        demand = operator_demand(graph, op, own)
        rate = card.matrix_flops * share.matrix if demand.matrix else card.flops * share.memory
        seconds = max(demand.flops / rate, demand.moved_bytes / (card.bandwidth * share.memory))
        time += share.kernel_ns + seconds * NS_PER_S
        scratch = max(scratch, _scratch(graph, op, card) if own is None else _workspace(own))
    compute = max(1, round(time))
    return LayerCost(compute_ns=compute, scratch_bytes=scratch, spread_ns=round(compute * UNCERTAINTY))


def operator_demand(graph: Graph, op: Op, own: Call | None = None) -> Demand:
    """Arithmetic of a matrix operator from its shapes, of planc's `own` from its call, one operation per element of any
    other; bytes of all tensors."""
    read, written = ([t for t in ports if t >= 0] for ports in (op.inputs, op.outputs))
    moved = sum(_nbytes(graph, t) for t in dict.fromkeys((*read, *written)))
    if own is not None and own.operator.products is not None:
        return Demand(2 * own.operator.products(own), moved, True)
    if op.op_type not in _MATRIX:
        return Demand(sum(_count(graph, t) for t in written), moved, False)
    return Demand(2 * _products(graph, op), moved, True)


def _products(graph: Graph, op: Op) -> int:
    """Multiply-adds of a matrix operator."""
    shapes = [graph.tensors[t].shape for t in (*op.inputs[:2], op.outputs[0])]
    a, b, y = shapes
    if op.op_type == "Conv":  # every output sums over the weight's [C / group, k...]
        return math.prod(y) * math.prod(b[1:])
    if op.op_type == "ConvTranspose":  # every input spreads over the weight's [O / group, k...]
        return math.prod(a) * math.prod(b[1:])
    if op.op_type == "Gemm":  # [M, K] x [K, N], either transposed: M N K is the root of the three areas
        return math.isqrt(math.prod(a) * math.prod(b) * math.prod(y))
    if op.op_type == "MatMul":
        return math.prod(y) * a[-1]
    return max(math.prod(shape) for shape in shapes) * max(a[-1] if a else 1, 1)  # Einsum: an upper guess


def _scratch(graph: Graph, op: Op, card: Card) -> int:
    """Convolutions on matrix units turn both images into channels-last: measured to be exactly that for ResNet-50."""
    if op.op_type not in ("Conv", "ConvTranspose") or not card.channels_last:
        return 0
    return sum(_nbytes(graph, t) for t in (op.inputs[0], op.outputs[0]))


def _workspace(own: Call) -> int:
    """Of the kernel that runs where nothing else is chosen; a library's is known only where it is measured: none."""
    kernel = own.operator.cuda(own) if own.operator.cuda is not None else None
    if isinstance(kernel, Variants):
        kernel = next(iter(kernel.kernels.values()))
    return kernel.workspace if isinstance(kernel, SourceKernel) else 0


def _link(card: Card) -> Link:
    share = card.sustained
    points = tuple(
        CopyPoint(size=size, out_ns=ns, in_ns=ns)
        for size in _SIZES
        for ns in (share.copy_ns + round(size * NS_PER_S / (card.link * share.link)),)
    )
    return Link(
        points=points,
        compute_one_copy_ppm=share.compute_one_copy_ppm,
        compute_two_copies_ppm=share.compute_two_copies_ppm,
        copy_duplex_ppm=share.copy_duplex_ppm,
        copy_compute_ppm=share.copy_compute_ppm,
    )


def _count(graph: Graph, tensor: int) -> int:
    return math.prod(graph.tensors[tensor].shape)


def _nbytes(graph: Graph, tensor: int) -> int:
    return _count(graph, tensor) * np.dtype(graph.tensors[tensor].dtype).itemsize
