"""A training step on its way from a file's structure to a graph: what the steps of the import hand on and change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx

from planc.graph.annotations import annotate_node
from planc.graph.inference import Type
from planc.graph.wellformed import RESERVED
from planc.importer.load import Skeleton
from planc.importer.storages import Places
from planc.importer.wired import Wired

PART_SUFFIX = f"{RESERVED}in:"
"""Between the names of a Concat's input and output: the tensor that is read there instead of the input."""


@dataclass
class Tensors:
    """Name, type (dtype, shape), bytes and place of every tensor, by its number; -1 stands for none."""

    names: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=lambda: {"": -1})
    types: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    places: Places = field(default_factory=Places)

    def add(self, name: str, type_: Type) -> int:
        """The number of that tensor, a new one where it has none."""
        if name not in self.index:
            dtype, itemsize = _dtype(type_[0])
            self._append(name, (dtype, type_[1]), math.prod(type_[1]) * itemsize)
        return self.index[name]

    def like(self, tensor: int, name: str) -> int:
        """A new tensor of the same type, with bytes of its own until it is joined to others."""
        self._append(name, self.types[tensor], self.nbytes[tensor])
        return self.index[name]

    def part(self, like: int, whole: int, offset: int) -> int:
        """A new tensor of the type of `like` that lies `offset` bytes behind the start of `whole`."""
        title = self.names[like].split(PART_SUFFIX)[0]
        part = self.like(like, f"{title}{PART_SUFFIX}{self.names[whole]}")
        self.places.join(part, whole, offset)
        return part

    def _append(self, name: str, type_: tuple[str, tuple[int, ...]], nbytes: int) -> None:
        self.index[name] = len(self.names)
        self.names.append(name)
        self.types.append(type_)
        self.nbytes.append(nbytes)
        self.places.add()


@dataclass
class Draft:
    """The step as it is so far. Its steps replace `nodes`, join places of `tensors` and add tensors for copies."""

    bare: Skeleton
    tensors: Tensors
    nodes: list[Wired]
    """In an order to run in."""
    constants: dict[str, np.ndarray]
    state: dict[int, int]
    """From each state input to the tensor with its next value."""
    kept: dict[str, int]
    """From each output of the model to the tensor with its value."""

    @property
    def given(self) -> list[int]:
        """What is there before the step: inputs that are no constants."""
        return [self.tensors.index[name] for name in self.bare.inputs if name not in self.constants]

    def values(self) -> dict[int, np.ndarray]:
        """Constants by tensor."""
        return {self.tensors.index[name]: value for name, value in self.constants.items()}

    def copied(self, source: int, name: str, title: str, kind: str) -> Wired:
        """A node, not yet among the others, that copies a tensor to a new one called `name`, in a layer of its own."""
        proto = onnx.helper.make_node("Identity", [self.tensors.names[source]], [name], name=f"copy:{title}")
        annotate_node(proto, title, kind, "update")
        return Wired(proto, "Identity", (source,), (self.tensors.like(source, name),))

    def forward(self) -> frozenset[int]:
        """The outputs of the nodes that the loss depends on, none without a loss."""
        if self.bare.metadata.loss is None:
            return frozenset()
        roots = self.tensors.places.roots()
        writer = {roots[out]: node for node in self.nodes for out in node.outputs if out >= 0}
        found: set[int] = set()
        pending = [self.tensors.index[self.bare.metadata.loss]]
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


def opset_of(opsets: Sequence[onnx.OperatorSetIdProto]) -> int:
    """The version of the standard operator set among those that a model imports."""
    return next(o.version for o in opsets if o.domain in ("", "ai.onnx"))
