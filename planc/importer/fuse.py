"""Joins element-wise operators of a layer into fused ones, each a pass over memory instead of several.

What a fused operator reads and writes lives in memory; what is made and used inside does not, and takes no bytes of a
plan. Between half-precision inputs and outputs it computes in float32, so that casts cost no pass of their own. Only the
target's runtime can have kernels for such operators, so an import asks for them (`import_model`).

Within a layer, nodes are taken in turns: first all whose inputs are there and that cannot be fused, then of those that can
the largest set of one shape that needs nothing from outside. So a group never waits for its own result. A layer that
gains nothing keeps its order.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import onnx

from planc.graph import fused
from planc.graph.annotations import LAYER, PHASE
from planc.importer.draft import Draft, opset_of
from planc.importer.fused_body import Body
from planc.importer.wired import Wired

Layer = list[Wired]


def fuse(draft: Draft) -> dict[str, onnx.FunctionProto]:
    """Join element-wise operators; the functions of the fused ones, by operator type."""
    fusion = _Fusion(draft)
    draft.nodes = fusion.fuse()
    return fusion.functions


class _Fusion:
    """Fuses the nodes of a graph. `roots` tell the storage of a tensor, `olds` maps the storage of a state's next value to
    that of its old one, `readers` counts who reads a storage, within the step or after it."""

    def __init__(self, draft: Draft) -> None:
        self.nodes, self.names, self.types = draft.nodes, draft.tensors.names, draft.tensors.types
        self.roots, self.opset = draft.tensors.places.roots(), opset_of(draft.bare.opsets)
        roots = self.roots
        self.olds = {roots[new]: roots[old] for old, new in draft.state.items() if roots[old] != roots[new]}
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.readers: defaultdict[int, int] = defaultdict(int)
        for node in self.nodes:
            for storage in {roots[i] for i in node.inputs if i >= 0}:
                self.readers[storage] += 1
        for tensor in draft.kept.values():
            self.readers[roots[tensor]] += 1

    def fuse(self) -> list[Wired]:
        """The nodes with fused ones among them, in an order to run in."""
        result: list[Wired] = []
        for annotation, nodes in groupby(self.nodes, key=lambda node: _layer_of(node.proto)):
            layer = list(nodes)
            result += layer if annotation is None else self._layer(layer)
        return result

    def _layer(self, layer: Layer) -> Layer:
        fusable = [self._is_fusable(node) for node in layer]
        if sum(fusable) < 2 and not any(map(self._is_half, layer)):
            return layer
        groups = list(self._groups(layer, fusable))
        joined = [len(group) > 1 or (self._is_half(group[0]) and self._is_fusable(group[0])) for group in groups]
        if not any(joined):
            return layer
        return [self._joined(group) if join else group[0] for group, join in zip(groups, joined, strict=True)]

    def _is_half(self, node: Wired) -> bool:
        """Whether a node computes in half precision, where ONNX Runtime's CUDA provider lacks some operators. A Cast alone
        computes nothing."""
        return node.op_type != "Cast" and any(i >= 0 and self.types[i][0] in fused.HALVES for i in node.inputs)

    def _groups(self, layer: Layer, fusable: Sequence[bool]) -> Iterator[Layer]:
        """The layer's nodes in an order to run in, those of a fused operator together."""
        before = self._before(layer)
        left = dict.fromkeys(range(len(layer)))
        while left:
            alone = [at for at in left if not fusable[at] and left.keys().isdisjoint(before[at])]
            for at in alone:
                yield [layer[at]]
            if not alone:
                group = self._largest(layer, fusable, left, before)
                yield [layer[at] for at in group]
                alone = group
            for at in alone:
                del left[at]

    def _before(self, layer: Layer) -> list[set[int]]:
        """For each node those of the layer that come before it: who writes what it reads, who reads what it overwrites."""
        writer: dict[int, int] = {}
        readers: defaultdict[int, list[int]] = defaultdict(list)
        before: list[set[int]] = []
        for at, node in enumerate(layer):
            read = {self.roots[i] for i in node.inputs if i >= 0}
            written = {self.roots[out] for out in node.outputs if out >= 0}
            olds = {self.olds[storage] for storage in written if storage in self.olds}
            found = {writer[storage] for storage in read if storage in writer}
            before.append(found | {r for storage in olds | written for r in readers[storage] if r != at})
            for storage in read:
                readers[storage].append(at)
            writer.update(dict.fromkeys(written, at))
        return before

    def _largest(
        self, layer: Layer, fusable: Sequence[bool], left: Mapping[int, None], before: Sequence[set[int]]
    ) -> list[int]:
        """Of all sets of fusable nodes with one shape that can run now, the one with most elements to compute."""
        shapes = dict.fromkeys(self.types[layer[at].outputs[0]][1] for at in left if left.keys().isdisjoint(before[at]))
        able = [at for at in left if fusable[at]]
        sets = [found for shape in shapes if (found := self._closure(layer, able, left, before, shape))]
        if not sets:
            return [next(at for at in left if left.keys().isdisjoint(before[at]))]
        return max(sets, key=lambda found: math.prod(self.types[layer[found[0]].outputs[0]][1]) * len(found))

    def _closure(
        self,
        layer: Layer,
        able: Sequence[int],
        left: Mapping[int, None],
        before: Sequence[set[int]],
        shape: tuple[int, ...],
    ) -> list[int]:
        group: dict[int, None] = {}
        made: dict[int, int] = {}
        for at in able:
            node = layer[at]
            if self.types[node.outputs[0]][1] != shape:
                continue
            waits = {b for b in before[at] if b in left}
            if all(b in group for b in waits) and self._reads_elements(layer, node, waits, made):
                group[at] = None
                made[self.roots[node.outputs[0]]] = node.outputs[0]
        return list(group)

    def _reads_elements(self, layer: Layer, node: Wired, waits: set[int], made: Mapping[int, int]) -> bool:
        """Whether a node reads of the group's results just the tensors themselves, no views of them, and overwrites only
        state that the group reads element by element. `made` has the results by storage."""
        if any(made.get(self.roots[i], i) != i for i in node.inputs):
            return False
        old = self.olds.get(self.roots[node.outputs[0]])
        readers = [node, *(layer[b] for b in waits)]
        of_state = [i for n in readers for i in n.inputs if i >= 0 and self.roots[i] == old]
        return all(self.types[i] == self.types[node.outputs[0]] for i in of_state)

    def _is_fusable(self, node: Wired) -> bool:
        if len(node.outputs) != 1 or min(node.inputs, default=-1) < 0:
            return False
        dtypes = [self.types[i][0] for i in node.inputs]
        return fused.is_fusable(node.op_type, node.proto.domain, dtypes, self.types[node.outputs[0]][0])

    def _joined(self, group: Layer) -> Wired:
        """One node for a group; its outputs are what others read."""
        made = {node.outputs[0] for node in group}
        uses: defaultdict[int, int] = defaultdict(int)
        for node in group:
            for storage in {self.roots[i] for i in node.inputs}:
                uses[storage] += 1
        read = dict.fromkeys(i for node in group for i in node.inputs if i not in made)
        outputs = [
            t for t in dict.fromkeys(node.outputs[0] for node in group)
            if self.readers[self.roots[t]] > uses[self.roots[t]] or self.roots[t] in self.olds
        ] or [group[-1].outputs[0]]  # fmt: skip
        name = self._function(group, list(read), outputs)
        proto = onnx.NodeProto(name=f"{group[0].proto.name}+{len(group) - 1}", op_type=name, domain=fused.DOMAIN)
        proto.input.extend(self.names[i] for i in read)
        proto.output.extend(self.names[t] for t in outputs)
        proto.metadata_props.extend(group[0].proto.metadata_props)
        return Wired(proto, name, tuple(read), tuple(outputs))

    def _function(self, group: Layer, inputs: list[int], outputs: list[int]) -> str:
        """The name of the function that a group computes, from what it does alone."""
        body = Body()
        for k, tensor in enumerate(inputs):
            body.read(tensor, f"a{k}", self.types[tensor][0])
        for node in group:
            made = node.outputs[0]
            body.compute(node.op_type, node.proto.attribute, node.inputs, made, self.types[made][0])
        ends = body.written(outputs, [self.types[t][0] for t in outputs])
        content = b"".join(part.SerializeToString(deterministic=True) for part in body.nodes) + " ".join(ends).encode()
        name = f"k{hashlib.sha256(content).hexdigest()[:16]}"
        if name not in self.functions:
            given = [f"a{k}" for k in range(len(inputs))]
            self.functions[name] = fused.function(name, body.nodes, given, ends, self.opset)
        return name


def _layer_of(proto: onnx.NodeProto) -> tuple[str, str] | None:
    found = {prop.key: prop.value for prop in proto.metadata_props if prop.key in (LAYER, PHASE)}
    return (found[LAYER], found[PHASE]) if len(found) == 2 else None
