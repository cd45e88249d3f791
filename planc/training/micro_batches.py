"""Several micro-batches in one step: forward and backward pass again for each, gradients added up.

The first pass is the one that a source emitted; the others are copies of it. Parameters and constants are shared, every
copy has batch inputs of its own, running statistics pass from one to the next, and random operators draw from places of
their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from planc.graph.annotations import annotate_node, node_annotation
from planc.graph.random_places import move_seed
from planc.training.emit.builder import Builder, LayerGroup, Var
from planc.training.weave import Weave


@dataclass(frozen=True)
class Ready:
    """A gradient that is complete before the body's node `position`, where nothing later reads the parameter. What is
    made of it there stands in the given turn (`Weave`)."""

    name: str
    gradient: Var
    group: LayerGroup
    position: int
    turn: int = 0


def titled(name: str, copy: int) -> str:
    """The name of a tensor or layer in the given micro-batch, counted from 0."""
    return name if copy == 0 else f"{name}@{copy + 1}"


@dataclass
class MicroBatches:
    """`count` passes over `body`. `carried` maps buffers to their next values, `replaced` holds for every copy what its
    nodes read in the place of a tensor of the first (inputs of its own).
    """

    b: Builder
    body: Sequence[onnx.NodeProto]
    count: int
    carried: Mapping[str, Var]
    replaced: Sequence[Mapping[str, str]]

    def __post_init__(self) -> None:
        self._made = {o for node in self.body for o in node.output if o}

    def repeated(self) -> list[onnx.NodeProto]:
        """The body of every pass, one after the other."""
        nodes = list(self.body)
        for copy in range(1, self.count):
            nodes += [self._copied(node, copy) for node in self.body]
        return nodes

    def value(self, value: Var, copy: int) -> Var:
        """What a tensor of the first pass is in another."""
        return replace(value, name=self._name(value.name, copy))

    def _name(self, name: str, copy: int) -> str:
        if copy == 0 or not name:
            return name
        if name in self._made:
            return titled(name, copy)
        if name in self.replaced[copy]:
            return self.replaced[copy][name]
        return self._name(self.carried[name].name, copy - 1) if name in self.carried else name

    def _copied(self, node: onnx.NodeProto, copy: int) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = titled(node.name, copy)
        for names in (made.input, made.output):
            for at, name in enumerate(names):
                names[at] = self._name(name, copy)
        move_seed(made, copy)
        for name in node.output:
            if name:
                value = self.b.values[name]
                self.b.values[titled(name, copy)] = replace(value, name=titled(name, copy))
        layer, kind, phase = node_annotation(node) or ("", "", "")
        annotate_node(made, titled(layer, copy), kind, phase)
        return made

    def accumulated(self, weave: Weave, ready: Ready, dtype: int) -> Ready:
        """The sum of a gradient over all passes, added up where each pass completes its own."""
        total = ready.gradient
        for copy in range(self.count):
            group = replace(ready.group, layer=titled(ready.group.layer, copy), phase="backward")
            position = ready.position + copy * len(self.body)
            with weave.filling(weave.section(position), group) as b:
                fresh = b.cast(self.value(ready.gradient, copy), dtype)
                total = fresh if copy == 0 else b.add(total, fresh)
        last = self.count - 1
        group = replace(ready.group, layer=titled(ready.group.layer, last))
        return Ready(ready.name, total, group, ready.position + last * len(self.body))
