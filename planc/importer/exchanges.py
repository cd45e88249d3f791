"""Exchanges of a step of several ranks: how many ranks, and operands that nothing else touches.

An exchange happens in the bytes of its operand while other operators run. So the operand is the whole of a storage that
the step computes and that nobody else reads; any other is copied first.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import onnx

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.graph import Graph
from planc.graph.wellformed import RESERVED
from planc.importer.draft import Draft
from planc.importer.wired import Wired, layer_runs
from planc.kernels.exchange import exchange_kind, is_exchange

OWN_SUFFIX = f"{RESERVED}own"
"""Suffix of the tensor that an added copy of what is exchanged writes."""

TAKEN_SUFFIX = f"{RESERVED}taken"
"""Suffix of the tensor that an added copy of what came from an exchange writes."""


def rank_count(nodes: Iterable[onnx.NodeProto], title: str) -> int:
    """How many ranks a step is written for, 1 without exchanges. Raises ModelError where its exchanges disagree."""
    found = {a.i for n in nodes if is_exchange(n.op_type, n.domain) for a in n.attribute if a.name == "ranks"}
    if len(found) > 1:
        raise ModelError(
            f"{title}: its exchanges are for {' and '.join(map(str, sorted(found)))} ranks; expected one count"
        )
    return found.pop() if found else 1


def own_operands(draft: Draft) -> None:
    """Give every exchange an operand of its own: a copy, in the layer of what writes it, where it has none."""
    tensors, roots = draft.tensors, draft.tensors.places.roots()
    held = {*draft.kept.values(), *(tensors.index[name] for name in (*draft.bare.inputs, *draft.constants))}
    taken, size = {roots[t] for t in held}, defaultdict[int, int](int)
    for tensor, root in enumerate(roots):
        size[root] = max(size[root], tensors.places.find(tensor)[1] + tensors.nbytes[tensor])
    readers = Counter(root for node in draft.nodes for root in {roots[i] for i in node.inputs if i >= 0})
    ends = _written_by(draft.nodes, roots)
    behind: defaultdict[int, list[Wired]] = defaultdict(list)
    found = list(draft.nodes)
    for at, node in enumerate(draft.nodes):
        if not is_exchange(node.op_type, node.proto.domain):
            continue
        (source,) = node.inputs
        root = roots[source]
        if root in taken or readers[root] > 1 or tensors.nbytes[source] != size[root] or root not in ends:
            name = tensors.names[source]
            copy = draft.copied(source, name + OWN_SUFFIX, name, "exchange-copy")
            if root in ends and (group := node_annotation(draft.nodes[ends[root]].proto)) is not None:
                annotate_node(copy.proto, *group)
            behind[ends.get(root, -1)].append(copy)
            found[at] = replace(node, inputs=copy.outputs)
    draft.nodes = [*behind[-1], *(each for at, node in enumerate(found) for each in (node, *behind[at]))]


def keep_given(draft: Draft) -> None:
    """Copy to the state what an exchange leaves in its operand's bytes and the next step begins with: right behind the
    exchange, in one layer."""
    tensors, roots = draft.tensors, draft.tensors.places.roots()
    states = {roots[new]: old for old, new in draft.state.items()}
    found: list[Wired] = []
    for layer, run in groupby(draft.nodes, key=_exchange_layer):
        nodes = list(run)
        found += nodes
        if layer is None:
            continue
        for made in (node.outputs[0] for node in nodes):
            if (old := states.get(roots[made])) is not None:
                copy = draft.copied(made, tensors.names[made] + TAKEN_SUFFIX, tensors.names[made], "state-copy")
                annotate_node(copy.proto, f"{layer[0]}.taken", "state-copy", "update")
                draft.state[old] = copy.outputs[0]
                found.append(copy)
    draft.nodes = found


def _exchange_layer(node: Wired) -> tuple[str, str, str] | None:
    """The layer that an exchange says it is in, as its annotation; None for other nodes."""
    return node_annotation(node.proto) if is_exchange(node.op_type, node.proto.domain) else None


def _written_by(nodes: Sequence[Wired], roots: Sequence[int]) -> dict[int, int]:
    """For each storage that the step computes, the last node of the layer that writes it."""
    return {
        roots[out]: stop - 1
        for _, start, stop in layer_runs(nodes)
        for node in nodes[start:stop]
        for out in node.outputs
        if out >= 0
    }


def require_apart(graph: Graph, title: str) -> None:
    """Raise ModelError where a layer has exchanges and other operators, or exchanges of several kinds."""
    for layer in graph.layers:
        kinds = {exchange_kind(graph.ops[op].op_type, graph.ops[op].domain) for op in range(layer.start, layer.stop)}
        if len(kinds) > 1:
            among = "other operators" if None in kinds else "exchanges of another kind"
            raise ModelError(f"{title}: layer {layer.title!r} has exchanges among {among}; give them a layer")
