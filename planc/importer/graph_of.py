"""The last step of an import: storages, operators and layers of a step whose nodes and places are settled."""

from collections import defaultdict
from collections.abc import Sequence

from planc.graph.graph import Graph, Layer, Op, Role, Storage, Tensor
from planc.graph.operators import is_random
from planc.importer.draft import Draft
from planc.importer.wire import is_small
from planc.importer.wired import Wired, layer_runs
from planc.kernels.exchange import is_exchange

_NONE: frozenset[int] = frozenset()


def graph_of(draft: Draft, forward: frozenset[int]) -> Graph:
    """The graph of the step; a node of which some output is in `forward` belongs to the forward phase."""
    tensors, metadata = draft.tensors, draft.bare.metadata
    updated = _update(draft)
    storages, storage_of, offsets = _storages(draft)
    replaced = {tensors.index[out] for out in metadata.states.values()} - set(draft.state.values())
    columns = (tensors.names, *zip(*tensors.types, strict=True), tensors.nbytes, storage_of, updated, offsets)
    return Graph(
        tensors=tuple(map(Tensor, *columns)),
        storages=storages,
        ops=_ops(draft),
        layers=layers_of(draft.nodes, forward),
        inputs=tuple(draft.given),
        outputs=tuple(output for output in draft.kept.values() if output not in replaced),
        state=draft.state,
        loss=None if metadata.loss is None else draft.kept[metadata.loss],
        input_ranges=dict(metadata.input_ranges),
        content_hash=draft.bare.content_hash,
        ignored=dict(metadata.ignored),
        hyperparameters=metadata.settings,
        shards=metadata.shards,
    )


def _update(draft: Draft) -> list[bool]:
    """Let the next value of every state lie in its old value's bytes; for each tensor whether it is such a value."""
    places = draft.tensors.places
    roots = places.roots()
    following = {roots[new] for old, new in draft.state.items() if roots[new] != roots[old]}
    for old, new in draft.state.items():
        places.join(new, old)
    return [root in following for root in roots]


def _storages(draft: Draft) -> tuple[tuple[Storage, ...], list[int], list[int]]:
    """The storages in the order of their first tensors, and for each tensor its storage and its offset there."""
    tensors = draft.tensors
    members: defaultdict[int, list[int]] = defaultdict(list)
    places = [tensors.places.find(at) for at in range(len(tensors.names))]
    for at, (root, _) in enumerate(places):
        members[root].append(at)
    inputs = set(draft.bare.inputs)
    storages = []
    for root, inside in members.items():
        end = max([places[t][1] + tensors.nbytes[t] for t in inside])
        role = _role(draft, tensors.names[root], inputs)
        storages.append(Storage(tensors.names[root], end, role, tuple(inside)))
    position = {root: at for at, root in enumerate(members)}
    return tuple(storages), [position[root] for root, _ in places], [offset for _, offset in places]


def _role(draft: Draft, name: str, inputs: set[str]) -> Role:
    """What the storage is that begins with the tensor `name`."""
    if name in draft.bare.metadata.states:
        return Role.STATE
    if name in draft.constants:
        return Role.CONSTANT
    return Role.BATCH if name in inputs else Role.COMPUTED


def _ops(draft: Draft) -> tuple[Op, ...]:
    index = draft.tensors.index
    small = frozenset(index[name] for name, value in draft.constants.items() if is_small(value))
    return tuple(
        Op(
            name=node.proto.name,
            op_type=node.op_type,
            domain=node.proto.domain,
            inputs=node.inputs,
            outputs=node.outputs,
            constants=_NONE if small.isdisjoint(node.inputs) else small.intersection(node.inputs),
            node=position,
            random=is_random(node.op_type, node.proto.domain, _drops(draft, node)),
            root=_root(node),
        )
        for position, node in enumerate(draft.nodes)
    )


def _root(node: Wired) -> int:
    """The rank that an exchange has as its root, -1 for none."""
    if not is_exchange(node.op_type, node.proto.domain):
        return -1
    return next((a.i for a in node.proto.attribute if a.name == "root"), -1)


def _drops(draft: Draft, node: Wired) -> bool:
    """Whether a Dropout node may drop: its training flag is present and not a constant false."""
    if node.op_type != "Dropout" or len(node.inputs) < 3 or node.inputs[2] < 0:
        return False
    flag = draft.constants.get(draft.tensors.names[node.inputs[2]])
    return flag is None or bool(flag)


def layers_of(nodes: Sequence[Wired], forward: frozenset[int]) -> tuple[Layer, ...]:
    """The layers, each with a title of its own in its phase."""
    layers: list[Layer] = []
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    for annotation, start, stop in layer_runs(nodes):
        node = nodes[start]
        phase = "backward" if forward.isdisjoint(node.outputs) else "forward"
        name, kind, phase = annotation or (node.proto.name, node.op_type.lower(), phase)
        seen[name, phase] += 1
        title = name if seen[name, phase] == 1 else f"{name}~{seen[name, phase]}"
        layers.append(Layer(title, kind, phase, start, stop))
    return tuple(layers)
