"""Bare graph instances of rematerialisation, as published with Checkmate and MOCCASIN, read as planning problems.

A file holds `{"name", "nodes": [{"id", "name", "cost", "bytes", "backward"}], "edges": [[u, v], …], "order": […]}`. A
node's output of `bytes` is live from its own step through its last consumer's step. Costs have no unit; a link's
bandwidth gives them one, microseconds. Beyond what is published, a node may need `scratch` bytes while it runs, and have
`"alternatives": [{"name", "cost", "scratch"}]`, other ways to make the same output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import msgspec
import networkx as nx

from planc.errors import ModelError
from planc.file_kinds import not_the
from planc.files import UNREADABLE, read_json
from planc.problem.problem import Alternative, Origin, Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule

NS_PER_COST = 1000
"""Duration of one unit of an integer cost; finer where costs are fractions."""

_PRECISION = 10**12
"""Fractional costs are scaled so that their sum is about this many ns: rounding then loses nothing that shows."""

UNLIMITED = 1 << 62


class Form(msgspec.Struct, frozen=True):
    """Another way to run a node."""

    name: str
    cost: float
    scratch: float = 0


class Node(msgspec.Struct, frozen=True):
    """One node of an instance file."""

    id: int | str
    cost: float
    bytes: float
    name: str = ""
    backward: bool = False
    scratch: float = 0
    alternatives: tuple[Form, ...] = ()


class _File(msgspec.Struct, frozen=True):
    nodes: list[Node]
    edges: list[tuple[int | str, int | str]]
    name: str = ""
    order: list[int | str] | None = None


@dataclass(frozen=True)
class Bandwidths:
    """Bandwidths of the two directions in bytes per second."""

    d2h: float
    h2d: float


_LARGEST = 1 << 50
"""Costs and bytes up to here can be added up, in ns, in 64 bits."""


@dataclass(frozen=True)
class Instance:
    """An instance in its topological order: task i and value i of `problem` are `nodes[i]`.

    `peak_bytes` is the peak of the given order without recomputation, `ns_per_cost` the scale of durations.
    """

    name: str
    nodes: tuple[Node, ...]
    problem: Problem
    peak_bytes: int
    ns_per_cost: float

    def with_budget(self, budget_bytes: int) -> Problem:
        """The problem at that budget (bytes)."""
        return replace(self.problem, budget_bytes=budget_bytes)


def read_instance(path: Path, link: Bandwidths | None = None) -> Instance:
    """Read an instance; values are swappable when a `link` is given.

    Raises ModelError for a file that is not an instance, an edge or order with an unknown or repeated node, a negative
    cost or size, and an order or graph that is not topological.
    """
    try:
        content = msgspec.json.decode(read_json(path), type=_File)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise ModelError(f"{not_the('graph instance', path, error)}; expected nodes and edges in JSON") from error
    nodes = {node.id: node for node in content.nodes}
    _check_nodes(path, content, nodes)
    order = _order(path, content, nodes)
    position = {node: i for i, node in enumerate(order)}
    parents: list[dict[int, None]] = [{} for _ in order]
    for parent, child in content.edges:
        if position[parent] >= position[child]:
            raise ModelError(f"{path}: node {child!r} comes before its input {parent!r} in the order")
        parents[position[child]][position[parent]] = None
    ordered = tuple(nodes[node] for node in order)
    return _instance(content.name or path.stem, ordered, [tuple(p) for p in parents], link)


def _check_nodes(path: Path, content: _File, nodes: dict[int | str, Node]) -> None:
    if not nodes:
        raise ModelError(f"{path}: the instance has no nodes")
    if len(nodes) != len(content.nodes):
        raise ModelError(f"{path}: two nodes have the same id")
    for node in content.nodes:
        if not (0 <= node.cost <= _LARGEST and 0 <= node.bytes <= _LARGEST):
            raise ModelError(
                f"{path}: node {node.id!r}: cost {node.cost} and bytes {node.bytes} must be from 0 to {_LARGEST}"
            )
        _check_forms(path, node)
    for end in (end for edge in content.edges for end in edge):
        if end not in nodes:
            raise ModelError(f"{path}: an edge names node {end!r}, which does not exist")


def _check_forms(path: Path, node: Node) -> None:
    names = [form.name for form in node.alternatives]
    if len({"", *names}) <= len(names):
        raise ModelError(f"{path}: node {node.id!r}: its alternatives {names} need names of their own")
    for number in (node.scratch, *(x for form in node.alternatives for x in (form.cost, form.scratch))):
        if not 0 <= number <= _LARGEST:
            raise ModelError(
                f"{path}: node {node.id!r}: {number} must be from 0 to {_LARGEST}, as a cost or as scratch bytes"
            )


def _order(path: Path, content: _File, nodes: dict[int | str, Node]) -> list[int | str]:
    if content.order is None:
        graph: nx.DiGraph[int | str] = nx.DiGraph(content.edges)
        graph.add_nodes_from(nodes)
        try:
            place = {node: at for at, node in enumerate(nodes)}
            return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        except nx.NetworkXUnfeasible as error:
            raise ModelError(f"{path}: the graph has a cycle") from error
    if len(content.order) != len(nodes) or set(content.order) != set(nodes):
        raise ModelError(f"{path}: the order must name each of the {len(nodes)} nodes once")
    return content.order


def _instance(
    name: str, nodes: tuple[Node, ...], parents: Sequence[tuple[int, ...]], link: Bandwidths | None
) -> Instance:
    costs = [cost for node in nodes for cost in (node.cost, *(form.cost for form in node.alternatives))]
    whole = all(float(cost).is_integer() for cost in costs)
    total = sum(costs)
    if link is not None and total > _LARGEST:
        raise ModelError(f"{name}: costs of {total:g} microseconds in all are no step; with a link they have that unit")
    exact = total <= 0 or link is not None or (whole and total <= _LARGEST)
    scale = float(NS_PER_COST) if exact else _PRECISION / total
    sizes = [ceil(node.bytes) for node in nodes]
    values = tuple(
        Value(
            name=node.name or str(node.id),
            bytes=size,
            origin=Origin.COMPUTED,
            swappable=link is not None,
            copy_out_ns=0 if link is None else ceil(size * 1e9 / link.d2h),
            copy_in_ns=0 if link is None else ceil(size * 1e9 / link.h2d),
        )
        for node, size in zip(nodes, sizes, strict=True)
    )
    tasks = tuple(
        Task(
            name=value.name,
            duration_ns=round(node.cost * scale),
            reads=parents[i],
            writes=(i,),
            working_bytes=value.bytes + ceil(node.scratch),
            recomputable=True,
            alternatives=tuple(
                Alternative(form.name, round(form.cost * scale), value.bytes + ceil(form.scratch))
                for form in node.alternatives
            ),
        )
        for i, (node, value) in enumerate(zip(nodes, values, strict=True))
    )
    problem = Problem(tasks, values, UNLIMITED)
    peak = max(memory_profile(problem, Schedule(tuple(range(len(tasks))))))
    return Instance(name, nodes, problem, peak, scale)
