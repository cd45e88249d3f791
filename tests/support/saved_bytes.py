"""Bytes that wait from the forward to the backward phase, by layer kind: of a training graph, and of torch's autograd.

A tensor counts for every kind of layer whose backward reads it, once a kind, and once in the total. Parameters and
batch inputs are left out of both; views count as the tensor they view.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from planc.graph.annotations import node_annotation
from support.torch_reference import reference, torch

LOSS = "cross-entropy"
"""What runs when no node of the forward model does."""


@dataclass(frozen=True)
class Saved:
    """What each kind of layer keeps: {kind: {tensor: bytes}}."""

    by_kind: Mapping[str, Mapping[Hashable, int]]

    def bytes_of(self, kind: str) -> int:
        return sum(self.by_kind.get(kind, {}).values())

    @property
    def total(self) -> int:
        """Every tensor once."""
        return sum({tensor: size for kept in self.by_kind.values() for tensor, size in kept.items()}.values())

    def more_than(self, other: "Saved") -> list[str]:
        """The kinds that keep more here than there."""
        return [kind for kind in self.by_kind if self.bytes_of(kind) > other.bytes_of(kind)]


def planc_saves(step: onnx.ModelProto) -> Saved:
    """What a training graph's backward phase reads of its forward phase."""
    sizes = {
        v.name: int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]))
        * helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).itemsize
        for v in step.graph.value_info
    }
    viewed = {n.output[0]: n.input[0] for n in step.graph.node if n.op_type == "Reshape"}
    made: set[str] = set()
    kept: dict[str, dict[Hashable, int]] = defaultdict(dict)
    for node in step.graph.node:
        _, kind, phase = node_annotation(node) or ("", "", "")
        if phase == "forward":
            made.update(node.output)
        for name in node.input:
            source = viewed.get(name, name)
            if phase == "backward" and source in made:
                kept[kind][source] = sizes[source]
    return Saved(kept)


class Autograd:
    """Records the storages that torch saves, by the kind of layer that runs."""

    def __init__(self, inputs: frozenset[int]) -> None:
        self.inputs = inputs
        self.saved: dict[str, dict[Hashable, int]] = defaultdict(dict)
        self.alive: list[Any] = []
        self.kind = LOSS

    def observe(self, node: onnx.NodeProto, outputs: Sequence[Any]) -> None:
        self.kind = LOSS if outputs else (node_annotation(node) or ("", "", ""))[1]
        self.alive += outputs  # or a storage freed would give its address to another

    def pack(self, tensor: Any) -> Any:
        self.alive.append(tensor)
        storage, base = tensor.untyped_storage(), tensor if tensor._base is None else tensor._base
        parameter = base.is_leaf and base.requires_grad
        if not parameter and storage.data_ptr() not in self.inputs:
            self.saved[self.kind][storage.data_ptr()] = storage.nbytes()
        return tensor


def torch_saves(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Saved:
    """What autograd saves."""
    given = {n: np.ascontiguousarray(a) for n, a in feeds.items()}
    record = Autograd(frozenset(torch.from_numpy(a).data_ptr() for a in given.values()))
    with torch.autograd.graph.saved_tensors_hooks(record.pack, lambda t: t):
        reference(model, given, torch.float32, record.observe)
    return Saved(record.saved)
