"""ONNX structure → Graph: storages by union-find, operators without views, layers, in-place state."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from planc.errors import ModelError
from planc.graph.annotations import node_annotation
from planc.graph.graph import Graph, Layer, Op, Role, Storage, Tensor
from planc.graph.operators import VIEWS, is_random
from planc.importer.load import INLINE_CONSTANT_BYTES, ModelFile, Skeleton, read_model, skeleton
from planc.importer.order import COPY_SUFFIX, order_for_updates


@dataclass(frozen=True)
class ImportedModel:
    """A training step ready to be planned or run: the graph, its nodes by `Op.node`, constants and initial state.

    `state_names` maps each state input to the model's output that holds its next value.
    """

    graph: Graph
    nodes: tuple[onnx.NodeProto, ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    constants: dict[str, np.ndarray]
    state_names: Mapping[str, str]
    file: ModelFile


def import_model(source: str | Path | onnx.ModelProto | ModelFile) -> ImportedModel:
    """Read, check and take apart a training graph. Raises ModelError naming the file and the node or tensor at fault."""
    file = source if isinstance(source, ModelFile) else read_model(source)
    return _Builder(skeleton(file), file).build()


class _Builder:
    """Builds one Graph; the steps are in `build`."""

    def __init__(self, bare: Skeleton, file: ModelFile) -> None:
        self.bare, self.file = bare, file
        self.constants = dict(bare.constants)
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.parent: list[int] = []
        self.updated: set[str] = set()

    def build(self) -> ImportedModel:
        """Name tensors, order nodes, join storages, make operators and layers."""
        self._check_states()
        nodes = [self._canonical(node) for node in self.bare.model.graph.node]
        for name in self._all_names(nodes):
            self._add_name(name)
        nodes = [node for node in nodes if not self._fold_shape(node) and not self._join_view(node)]
        order = order_for_updates(nodes, self.bare.state_names, self._root, self._dtype_shape)
        for name in order.copied:
            self._add_name(name + COPY_SUFFIX)
        state = {
            name: name + COPY_SUFFIX if name in order.copied else out for name, out in self.bare.state_names.items()
        }
        self._join_states(state)
        return self._assemble(order.nodes, state)

    @staticmethod
    def _canonical(node: onnx.NodeProto) -> onnx.NodeProto:
        """The node, or a copy that carries a name: messages need one."""
        if node.name:
            return node
        named = onnx.NodeProto()
        named.CopyFrom(node)
        named.name = f"{node.op_type}:{next((o for o in node.output if o), '')}"
        return named

    def _all_names(self, nodes: Iterable[onnx.NodeProto]) -> Iterable[str]:
        graph = self.bare.model.graph
        names = [value.name for value in graph.input] + list(self.constants)
        for node in nodes:
            names += [name for name in (*node.input, *node.output) if name]
        return dict.fromkeys(names)

    def _root(self, name: str) -> int:
        at = self.index[name]
        while self.parent[at] != at:
            self.parent[at] = self.parent[self.parent[at]]
            at = self.parent[at]
        return at

    def _dtype_shape(self, name: str) -> tuple[str, tuple[int, ...]]:
        code, shape = self._type(name)
        return _dtype(code)[0], shape

    def _fold_shape(self, node: onnx.NodeProto) -> bool:
        """Make a Shape or Size node a constant. ONNX Runtime runs these ahead of file order, on which addresses rely."""
        if node.op_type not in ("Shape", "Size") or not node.input[0]:
            return False
        shape = self.bare.types[node.input[0]][1]
        if node.op_type == "Size":
            value = np.array(math.prod(shape), np.int64)
        else:
            part = {a.name: a.i for a in node.attribute}
            value = np.array(shape[part.get("start", 0) : part.get("end", len(shape))], np.int64)
        self.constants[node.output[0]] = value
        return True

    def _join_view(self, node: onnx.NodeProto) -> bool:
        """Join a view's output to its input; a view of a constant becomes a constant."""
        if node.op_type not in VIEWS:
            return False
        source, output = node.input[0], node.output[0]
        if source in self.constants:
            self.constants[output] = self.constants[source].reshape(self.bare.types[output][1])
        else:
            self.parent[self._root(output)] = self._root(source)
        return True

    def _add_name(self, name: str) -> None:
        self.index[name] = len(self.names)
        self.names.append(name)
        self.parent.append(len(self.parent))

    def _type(self, name: str) -> tuple[int, tuple[int, ...]]:
        return self.bare.types[name.removesuffix(COPY_SUFFIX)]

    def _join_states(self, state: dict[str, str]) -> None:
        next_roots = {self._root(out) for name, out in state.items() if self._root(out) != self._root(name)}
        self.updated = {name for name in self.names if self._root(name) in next_roots}
        for name, out in state.items():
            self.parent[self._root(out)] = self._root(name)

    def _check_states(self) -> None:
        for name, out in self.bare.state_names.items():
            if self._type(name) != self._type(out):
                raise ModelError(
                    f"{self.file.title}: state {name!r} and its next value {out!r} differ in type or shape"
                )

    def _assemble(self, nodes: list[onnx.NodeProto], state: dict[str, str]) -> ImportedModel:
        storages, storage_of = self._storages()
        tensors = tuple(self._tensor(name, storage_of[self._root(name)]) for name in self.names)
        ops = tuple(self._op(node, position) for position, node in enumerate(nodes))
        replaced = set(self.bare.state_names.values()) - set(state.values())
        graph = Graph(
            tensors=tensors,
            storages=storages,
            ops=ops,
            layers=_layers(nodes, self._forward_names(nodes)),
            inputs=tuple(self.index[v.name] for v in self.bare.model.graph.input if v.name not in self.constants),
            outputs=tuple(self.index[v.name] for v in self.bare.model.graph.output if v.name not in replaced),
            state={self.index[a]: self.index[b] for a, b in state.items()},
            loss=self.index.get(self.bare.loss or ""),
            input_ranges=dict(self.bare.input_ranges),
            content_hash=self.bare.content_hash,
        )
        opsets = tuple(self.bare.model.opset_import)
        return ImportedModel(graph, tuple(nodes), opsets, self.constants, self.bare.state_names, self.file)

    def _storages(self) -> tuple[tuple[Storage, ...], dict[int, int]]:
        members: defaultdict[int, list[int]] = defaultdict(list)
        for name, at in self.index.items():
            members[self._root(name)].append(at)
        inputs = {v.name for v in self.bare.model.graph.input}
        storages = []
        for root, tensors in members.items():
            name = self.names[root]
            if name in self.bare.state_names:
                role = Role.STATE
            elif name in self.constants:
                role = Role.CONSTANT
            else:
                role = Role.BATCH if name in inputs else Role.COMPUTED
            storages.append(Storage(name, max(self._nbytes(self.names[t]) for t in tensors), role, tuple(tensors)))
        return tuple(storages), {root: position for position, root in enumerate(members)}

    def _nbytes(self, name: str) -> int:
        code, shape = self._type(name)
        return math.prod(shape) * _dtype(code)[1]

    def _tensor(self, name: str, storage: int) -> Tensor:
        dtype, shape = self._dtype_shape(name)
        return Tensor(name, dtype, shape, self._nbytes(name), storage, name in self.updated)

    def _op(self, node: onnx.NodeProto, position: int) -> Op:
        small = frozenset(
            self.index[name]
            for name in node.input
            if name in self.constants and self.constants[name].nbytes <= INLINE_CONSTANT_BYTES
        )
        return Op(
            name=node.name,
            op_type=node.op_type,
            domain=node.domain,
            inputs=tuple(self.index[name] if name else -1 for name in node.input),
            outputs=tuple(self.index[name] if name else -1 for name in node.output),
            constants=small,
            node=position,
            random=is_random(node.op_type, node.domain, self._drops(node)),
        )

    def _drops(self, node: onnx.NodeProto) -> bool:
        """Whether a Dropout node may drop: its training flag is present and not a constant false."""
        if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
            return False
        flag = self.constants.get(node.input[2])
        return flag is None or bool(flag)

    def _forward_names(self, nodes: list[onnx.NodeProto]) -> frozenset[str]:
        """Outputs of the nodes that the loss depends on."""
        if self.bare.loss is None:
            return frozenset()
        producer = {name: node for node in nodes for name in node.output}
        by_root = {self._root(name): name for name in producer if name}
        found: set[str] = set()
        pending = [self.bare.loss]
        while pending:
            name = by_root.get(self._root(pending.pop()))
            if name is not None and name not in found:
                found.update(producer[name].output)
                pending += [i for i in producer[name].input if i and i not in self.constants]
        return frozenset(found)


@cache
def _dtype(code: int) -> tuple[str, int]:
    """NumPy's name of an ONNX element type, and its bytes."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(code)
    return dtype.name, dtype.itemsize


def _layers(nodes: list[onnx.NodeProto], forward: frozenset[str]) -> tuple[Layer, ...]:
    """Maximal runs of nodes with the same annotation; a node without one is a layer of its own."""
    layers: list[Layer] = []
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    previous: tuple[str, str, str] | None = None
    for position, node in enumerate(nodes):
        annotation = node_annotation(node)
        if annotation is not None and annotation == previous:
            last = layers[-1]
            layers[-1] = Layer(last.name, last.kind, last.phase, last.start, position + 1)
            continue
        phase = "forward" if any(o in forward for o in node.output) else "backward"
        name, kind, phase = annotation or (node.name, node.op_type.lower(), phase)
        seen[name, phase] += 1
        title = name if seen[name, phase] == 1 else f"{name}~{seen[name, phase]}"
        layers.append(Layer(title, kind, phase, position, position + 1))
        previous = annotation
    return tuple(layers)
