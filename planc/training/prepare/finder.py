"""What searches for written-out operators know of a graph, and how they put one node in the place of several."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from planc.graph.annotations import annotate_like
from planc.graph.nodes import replace_nodes
from planc.training.emit.builder import Array, Var


class Finder:
    """A graph's nodes by what they make and read. `values` are its tensors; what is `trained` is no constant, and what is
    `wanted` is read by more than the nodes, as the graph's outputs are.

    Questions are about the graph as it was: what is put in the place of nodes shows in `finish` alone.
    """

    def __init__(
        self, graph: onnx.GraphProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str]
    ) -> None:
        self.graph, self.values, self.trained = graph, dict(values), frozenset(trained)
        self.nodes = list(graph.node)
        self._position = {id(node): at for at, node in enumerate(self.nodes)}
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self._kept = {info.name for info in graph.output} | set(wanted)
        self._constants = {t.name: t for t in graph.initializer if t.name not in self.trained}
        self._instead: dict[int, list[onnx.NodeProto]] = {}

    # --- who makes and reads a tensor

    def alone(self, name: str) -> bool:
        """Whether one node reads the tensor, at one position, and nobody else does."""
        return len(self.readers[name]) == 1 and name not in self._kept

    def sole_reader(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that alone reads the tensor, if it is of one of these types; of any where none is given."""
        reader = self.readers[name][0] if self.alone(name) else None
        return reader if reader is not None and (not op_types or reader.op_type in op_types) else None

    def made_by(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that makes the tensor, if it is of one of these types."""
        maker = self.maker.get(name)
        return maker if maker is not None and maker.op_type in op_types else None

    def made_for(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The same for a tensor that only one node reads."""
        return self.made_by(name, *op_types) if self.alone(name) else None

    # --- constants

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def constant(self, name: str) -> Array | None:
        """The value of a constant, None for what is computed or trained."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def number(self, name: str) -> float | None:
        """The value of a constant of one element."""
        value = self.constant(name)
        return None if value is None or value.size != 1 else float(value.reshape(-1)[0])

    def ints(self, node: onnx.NodeProto, position: int) -> list[int] | None:
        """The integers of a constant input, None where it is computed or left out."""
        value = self.constant(node.input[position]) if position < len(node.input) else None
        return None if value is None else [int(number) for number in np.ravel(value)]

    # --- rewriting

    def replace(
        self, nodes: Sequence[onnx.NodeProto], op_type: str, inputs: Sequence[str], output: str,
        before: Sequence[onnx.NodeProto] = (), **attributes: Any,
    ) -> None:  # fmt: skip
        """Put one node in the place, and the layer, of the last of `nodes`, behind those `before`; the others go."""
        last = max(nodes, key=lambda node: self._position[id(node)])
        made = [*before, helper.make_node(op_type, inputs, [output], last.name or output, **attributes)]
        for node in made:
            annotate_like(node, last)
        self.drop(nodes)
        self._instead[id(last)] = made

    def drop(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Let the nodes go."""
        self._instead.update((id(node), []) for node in nodes)

    def hold(self, name: str, value: Array) -> str:
        """A constant of the graph with this value; its name."""
        tensor = numpy_helper.from_array(value, name)
        self.graph.initializer.append(tensor)
        self._constants[name] = tensor
        self.values[name] = Var(name, tuple(tensor.dims), tensor.data_type)
        return name

    def finish(self) -> None:
        """Write the nodes as they are now into the graph."""
        replace_nodes(self.graph, (made for node in self.nodes for made in self._instead.get(id(node), [node])))
