"""ONNX structure → Graph: storages by union-find, operators without views, layers, in-place state."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx

from planc.errors import ModelError
from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.concat import is_concat
from planc.graph.fused import DOMAIN, VERSION
from planc.graph.graph import Graph, Layer, Op, Role, Storage, Tensor
from planc.graph.inference import Type
from planc.graph.operators import PIECES, VIEWS, is_random
from planc.importer.concat_reads import ReadsInside
from planc.importer.fuse import Fusion
from planc.importer.live_bytes import StepMemory
from planc.importer.load import INLINE_CONSTANT_BYTES, ModelFile, Skeleton, read_model, skeleton
from planc.importer.order import order_for_updates
from planc.importer.piece_views import PieceViews
from planc.importer.storages import Places
from planc.importer.versions import with_copies
from planc.importer.wired import Wired
from planc.kernels import DOMAIN as OWN
from planc.kernels import call_of, function_of, opset_id
from planc.kernels.engines import EngineTable

COPY_SUFFIX = "@planc.copy"
"""Suffix of the tensor that an added copy of a state's next value writes."""

KEPT_SUFFIX = "@planc.kept"
"""Suffix of the tensor that an added copy of what was there before the step writes."""

PART_SUFFIX = "@planc.in:"
"""Between the names of a Concat's input and output: the tensor that is read there instead of the input."""

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ImportedModel:
    """A training step ready to be planned or run: the graph, its nodes by `Op.node`, constants and initial state.

    `state_names` maps each state input to the model's output that holds its next value, `outputs` every other output of
    the model to the graph's tensor with its value, `hyperparameters` the name of each to its inputs, one per parameter
    group, `micro_batches` a batch input to its names in every micro-batch. `functions` are what planc's own operators
    compute, and the fused ones where the import asked for such, by operator type.
    """

    graph: Graph
    nodes: tuple[onnx.NodeProto, ...]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    constants: dict[str, np.ndarray]
    state_names: Mapping[str, str]
    outputs: Mapping[str, int]
    hyperparameters: Mapping[str, tuple[str, ...]]
    micro_batches: Mapping[str, tuple[str, ...]]
    file: ModelFile
    functions: Mapping[str, onnx.FunctionProto] = field(default_factory=dict)
    engines: EngineTable = field(default_factory=dict)
    """Which engines of libraries compute planc's own operators, where that is settled."""


def import_model(source: str | Path | onnx.ModelProto | ModelFile, fused: bool = False) -> ImportedModel:
    """Read, check and take apart a training graph, its element-wise operators `fused` for a runtime that has kernels for
    such. Raises ModelError naming the file and the node or tensor at fault."""
    file = source if isinstance(source, ModelFile) else read_model(source)
    bare = skeleton(file)
    return _Builder(replace(bare, content_hash=fused_hash(bare.content_hash)) if fused else bare, file, fused).build()


def import_for(source: str | Path | onnx.ModelProto | ModelFile, content_hash: str) -> ImportedModel:
    """The training graph as it was imported when it had that hash, for a plan or a cost table of it: with fused operators
    if it had them then, otherwise plain, whether or not its hash is the one."""
    file = source if isinstance(source, ModelFile) else read_model(source)
    bare = skeleton(file)
    if fused_hash(bare.content_hash) == content_hash:
        return _Builder(replace(bare, content_hash=content_hash), file, True).build()
    return _Builder(bare, file).build()


def fused_hash(content_hash: str) -> str:
    """Hash of a graph after its operators were fused."""
    return hashlib.sha256(f"{content_hash} {DOMAIN} {VERSION}".encode()).hexdigest()


def standard_opset(opsets: Iterable[onnx.OperatorSetIdProto]) -> int:
    """The version of the standard operator set among those that a model imports."""
    return next(o.version for o in opsets if o.domain in ("", "ai.onnx"))


class _Builder:
    """Builds one Graph; the steps are in `build`. Tensors go by their index, -1 stands for none."""

    def __init__(self, bare: Skeleton, file: ModelFile, fused: bool = False) -> None:
        self.bare, self.file, self.fused = bare, file, fused
        self.functions: Mapping[str, onnx.FunctionProto] = {}
        own = {node.op_type: node for node in bare.nodes if node.domain == OWN}
        opset = standard_opset(bare.opsets)
        self.own = {name: function_of(call_of(node, bare.types), opset) for name, node in own.items()}
        self.constants = dict(bare.constants)
        self.names: list[str] = []
        self.index: dict[str, int] = {"": -1}
        self.types: list[tuple[str, tuple[int, ...]]] = []
        self.nbytes: list[int] = []
        self.places = Places()
        self.kept: dict[str, int] = {}

    def build(self) -> ImportedModel:
        """Name tensors, order nodes, join storages, make operators and layers."""
        self._check_states()
        for name in (*self.bare.inputs, *sorted(self.constants, key=self._is_small)):
            self._add(name, self.bare.types[name])
        nodes = [self._wired(node) for node in self.bare.nodes]
        nodes = [node for node in nodes if not self._fold_shape(node) and not self._join_view(node)]
        state = {self.index[name]: self.index[out] for name, out in self.bare.state_names.items()}
        self.kept = {name: self.index[name] for name in self.bare.outputs}
        nodes = self._keep_versions(nodes, state)
        roots = self.places.roots()
        nodes, copied = order_for_updates(nodes, state, roots, self.types)
        forward = self._forward(nodes, roots)
        for old in [old for old in state if old in copied]:
            nodes.append(self._copy(state[old], self.names[old] + COPY_SUFFIX, self.names[old], "state-copy"))
            state[old] = nodes[-1].outputs[0]
        nodes = self._read_inside(self._join_pieces(nodes, state), state)
        return self._assemble(self._join_elementwise(nodes, state) if self.fused else nodes, forward, state)

    def _join_elementwise(self, nodes: list[Wired], state: Mapping[int, int]) -> list[Wired]:
        """The nodes, with fused ones for stretches of element-wise operators."""
        roots = self.places.roots()
        pairs = {roots[old]: roots[new] for old, new in state.items() if roots[old] != roots[new]}
        kept = list(self.kept.values())
        opset = standard_opset(self.bare.opsets)
        fusion = Fusion(nodes, self.names, self.types, roots, pairs, kept, opset)
        nodes, self.functions = fusion.fuse(), fusion.functions
        return nodes

    def _join_pieces(self, nodes: list[Wired], state: Mapping[int, int]) -> list[Wired]:
        """The nodes without those whose outputs became views of pieces of their input."""
        if not any(node.op_type in PIECES for node in nodes):
            return nodes
        constants = {self.index[name]: value for name, value in self.constants.items()}
        memory = self._memory(nodes, state)
        return PieceViews(nodes, self.places, self.types, self.nbytes, constants, memory).join_all()

    def _read_inside(self, nodes: list[Wired], state: Mapping[int, int]) -> list[Wired]:
        """The nodes, those that read an input of a Concat after it reading the Concat's output instead."""
        if not any(is_concat(node.op_type, node.proto.domain) for node in nodes):
            return nodes
        reads = ReadsInside(nodes, self.places, self.types, self.nbytes, self._memory(nodes, state), self._part)
        return reads.moved()

    def _memory(self, nodes: list[Wired], state: Mapping[int, int]) -> StepMemory:
        kept = list(self.kept.values())
        given = [self.index[name] for name in self.bare.inputs if name not in self.constants]
        constants = {self.index[name] for name in self.constants}
        return StepMemory(nodes, self.places.roots(), self.nbytes, constants, state, kept, given)

    def _part(self, like: int, whole: int, offset: int) -> int:
        """A new tensor of the type of `like` that lies `offset` bytes behind the start of `whole`."""
        title = self.names[like].split(PART_SUFFIX)[0]
        part = self._like(like, f"{title}{PART_SUFFIX}{self.names[whole]}")
        self.places.join(part, whole, offset)
        return part

    def _is_small(self, constant: str) -> bool:
        return bool(self.constants[constant].nbytes <= INLINE_CONSTANT_BYTES)

    def _add(self, name: str, type_: Type) -> int:
        """The tensor's index, a new one where it has none."""
        at = self.index.setdefault(name, len(self.names))
        if at == len(self.names):
            dtype, itemsize = _dtype(type_[0])
            self.names.append(name)
            self.types.append((dtype, type_[1]))
            self.nbytes.append(math.prod(type_[1]) * itemsize)
            self.places.add()
        return at

    def _wired(self, proto: onnx.NodeProto) -> Wired:
        """The node with its tensors; it or a copy of it carries a name: messages need one."""
        index, types = self.index, self.bare.types
        outputs = tuple([self._add(name, types[name]) if name else -1 for name in proto.output])
        if not proto.name:
            unnamed, proto = proto, onnx.NodeProto()
            proto.CopyFrom(unnamed)
            proto.name = f"{proto.op_type}:{next((o for o in proto.output if o), '')}"
        return Wired(proto, proto.op_type, tuple([index[name] for name in proto.input]), outputs)

    def _copy(self, source: int, name: str, title: str, kind: str) -> Wired:
        """A node that copies a tensor to a new one called `name`, in a layer of its own."""
        proto = onnx.helper.make_node("Identity", [self.names[source]], [name], name=f"copy:{title}")
        annotate_node(proto, title, kind, "update")
        return Wired(proto, "Identity", (source,), (self._like(source, name),))

    def _like(self, tensor: int, name: str) -> int:
        """A new tensor of the same type, with bytes of its own until it is joined to others."""
        self.index[name] = len(self.names)
        self.names.append(name)
        self.types.append(self.types[tensor])
        self.nbytes.append(self.nbytes[tensor])
        self.places.add()
        return self.index[name]

    def _keep_versions(self, nodes: list[Wired], state: dict[int, int]) -> list[Wired]:
        """The nodes with copies of what is wanted after the step as it was before; see `planc.importer.versions`."""
        roots, replaced = self.places.roots(), dict(state)
        given = {roots[self.index[name]] for name in (*self.bare.inputs, *self.constants)}
        following, states = set(self.bare.state_names.values()), {roots[old] for old in state}
        copies = []
        for name, tensor in self.kept.items():
            if name not in following and roots[tensor] in given:
                copies.append(self._copy(tensor, name + KEPT_SUFFIX, name, "output-copy"))
                self.kept[name] = copies[-1].outputs[0]
        for old, new in replaced.items():
            if roots[new] in states and roots[new] != roots[old]:
                title = self.names[old]
                copies.append(self._copy(new, title + KEPT_SUFFIX, title, "state-copy"))
                state[old] = copies[-1].outputs[0]
        return with_copies(nodes, copies, replaced, self.places.roots()) if copies else nodes

    def _fold_shape(self, node: Wired) -> bool:
        """Make a Shape or Size node a constant. ONNX Runtime runs these ahead of file order, on which addresses rely."""
        if node.op_type not in ("Shape", "Size") or node.inputs[0] < 0:
            return False
        shape = self.types[node.inputs[0]][1]
        if node.op_type == "Size":
            value = np.array(math.prod(shape), np.int64)
        else:
            part = {a.name: a.i for a in node.proto.attribute}
            value = np.array(shape[part.get("start", 0) : part.get("end", len(shape))], np.int64)
        self.constants[self.names[node.outputs[0]]] = value
        return True

    def _join_view(self, node: Wired) -> bool:
        """Join a view's output to its input; a view of a constant becomes a constant."""
        if node.op_type not in VIEWS:
            return False
        source, output = node.inputs[0], node.outputs[0]
        value = self.constants.get(self.names[source])
        if value is not None:
            self.constants[self.names[output]] = value.reshape(self.types[output][1])
        else:
            self.places.join(output, source)
        return True

    def _check_states(self) -> None:
        types = self.bare.types
        for name, out in self.bare.state_names.items():
            if types[name] != types[out]:
                raise ModelError(
                    f"{self.file.title}: state {name!r} and its next value {out!r} differ in type or shape"
                )

    def _assemble(self, nodes: list[Wired], forward: frozenset[int], state: dict[int, int]) -> ImportedModel:
        roots = self.places.roots()
        next_roots = {roots[out] for name, out in state.items() if roots[out] != roots[name]}
        updated = [root in next_roots for root in roots]
        for name, out in state.items():
            self.places.join(out, name)
        storages, storage_of, offsets = self._storages()
        replaced = {self.index[out] for out in self.bare.state_names.values()} - set(state.values())
        graph = Graph(
            tensors=tuple(
                map(Tensor, self.names, *zip(*self.types, strict=True), self.nbytes, storage_of, updated, offsets)
            ),
            storages=storages,
            ops=self._ops(nodes),
            layers=_layers(nodes, forward),
            inputs=tuple(self.index[name] for name in self.bare.inputs if name not in self.constants),
            outputs=tuple(output for output in self.kept.values() if output not in replaced),
            state=state,
            loss=None if self.bare.loss is None else self.kept[self.bare.loss],
            input_ranges=dict(self.bare.input_ranges),
            content_hash=self.bare.content_hash,
            ignored=dict(self.bare.ignored),
            hyperparameters=frozenset(n for names in self.bare.hyperparameters.values() for n in names if n),
        )
        protos = tuple(node.proto for node in nodes)
        bare, opsets = self.bare, tuple(o for o in self.bare.opsets if o.domain != OWN)
        if self.own:
            opsets = (*opsets, opset_id())
        if self.functions:
            opsets = (*opsets, onnx.helper.make_opsetid(DOMAIN, VERSION))
        following = set(bare.state_names.values())
        outputs = {name: tensor for name, tensor in self.kept.items() if name not in following}
        functions = {**self.own, **self.functions}
        return ImportedModel(
            graph, protos, opsets, self.constants, bare.state_names, outputs, bare.hyperparameters, bare.micro_batches,
            self.file, functions,
        )  # fmt: skip

    def _storages(self) -> tuple[tuple[Storage, ...], list[int], list[int]]:
        """The storages in the order of their first tensors, and for each tensor its storage and its offset there."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        places = [self.places.find(at) for at in range(len(self.names))]
        for at, (root, _) in enumerate(places):
            members[root].append(at)
        inputs = set(self.bare.inputs)
        storages = []
        for root, tensors in members.items():
            name = self.names[root]
            if name in self.bare.state_names:
                role = Role.STATE
            elif name in self.constants:
                role = Role.CONSTANT
            else:
                role = Role.BATCH if name in inputs else Role.COMPUTED
            end = max([places[t][1] + self.nbytes[t] for t in tensors])
            storages.append(Storage(name, end, role, tuple(tensors)))
        position = {root: at for at, root in enumerate(members)}
        return tuple(storages), [position[root] for root, _ in places], [offset for _, offset in places]

    def _ops(self, nodes: Sequence[Wired]) -> tuple[Op, ...]:
        small = frozenset(self.index[name] for name in self.constants if self._is_small(name))
        return tuple(
            Op(
                name=node.proto.name,
                op_type=node.op_type,
                domain=node.proto.domain,
                inputs=node.inputs,
                outputs=node.outputs,
                constants=_NONE if small.isdisjoint(node.inputs) else small.intersection(node.inputs),
                node=position,
                random=is_random(node.op_type, node.proto.domain, self._drops(node)),
            )
            for position, node in enumerate(nodes)
        )

    def _drops(self, node: Wired) -> bool:
        """Whether a Dropout node may drop: its training flag is present and not a constant false."""
        if node.op_type != "Dropout" or len(node.inputs) < 3 or node.inputs[2] < 0:
            return False
        flag = self.constants.get(self.names[node.inputs[2]])
        return flag is None or bool(flag)

    def _forward(self, nodes: Sequence[Wired], roots: Sequence[int]) -> frozenset[int]:
        """The outputs of the nodes that the loss depends on, none without a loss."""
        if self.bare.loss is None:
            return frozenset()
        writer = {roots[out]: node for node in nodes for out in node.outputs if out >= 0}
        found: set[int] = set()
        pending = [self.index[self.bare.loss]]
        while pending:
            node = writer.pop(roots[pending.pop()], None)
            if node is not None:
                found.update(out for out in node.outputs if out >= 0)
                pending += [i for i in node.inputs if i >= 0]
        return frozenset(found)


@cache
def _dtype(code: int) -> tuple[str, int]:
    """NumPy's name of an ONNX element type, and its bytes."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(code)
    return dtype.name, dtype.itemsize


def _layers(nodes: Sequence[Wired], forward: frozenset[int]) -> tuple[Layer, ...]:
    """Maximal runs of nodes with the same annotation; a node without one is a layer of its own."""
    layers: list[Layer] = []
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    previous: tuple[str, str, str] | None = None
    for position, node in enumerate(nodes):
        annotation = node_annotation(node.proto)
        if annotation is not None and annotation == previous:
            last = layers[-1]
            layers[-1] = Layer(last.name, last.kind, last.phase, last.start, position + 1)
            continue
        phase = "backward" if forward.isdisjoint(node.outputs) else "forward"
        name, kind, phase = annotation or (node.proto.name, node.op_type.lower(), phase)
        seen[name, phase] += 1
        title = name if seen[name, phase] == 1 else f"{name}~{seen[name, phase]}"
        layers.append(Layer(title, kind, phase, position, position + 1))
        previous = annotation
    return tuple(layers)
