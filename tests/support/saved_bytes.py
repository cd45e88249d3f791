"""Bytes that wait from the forward to the backward phase, by layer kind: of a training graph, and of torch's autograd.

Parameters and batch inputs are left out of both, views count once. A tensor belongs to the layer that makes it; what
only an operator itself makes (indices, statistics) to that operator's layer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from planc.graph.annotations import node_annotation
from support.torch_reference import reference, torch


def planc_saves(step: onnx.ModelProto) -> Counter[str]:
    """Saved bytes by layer kind in a training graph."""
    sizes = {
        v.name: int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]))
        * helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).itemsize
        for v in step.graph.value_info
    }
    viewed = {n.output[0]: n.input[0] for n in step.graph.node if n.op_type == "Reshape"}
    made: dict[str, str] = {}
    saved: dict[str, str] = {}
    for node in step.graph.node:
        _, kind, phase = node_annotation(node) or ("", "", "")
        for output in node.output:
            if phase == "forward":
                made[output] = kind
        for name in node.input:
            source = viewed.get(name, name)
            if phase == "backward" and source in made:
                saved[source] = made[source]
    return total({name: (kind, sizes[name]) for name, kind in saved.items()})


def total(saved: Mapping[Any, tuple[str, int]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for kind, size in saved.values():
        counted[kind] += size
    return counted


class Autograd:
    """Records the storages that torch saves, by the layer that made them."""

    def __init__(self, inputs: frozenset[int]) -> None:
        self.inputs = inputs
        self.made: dict[int, str] = {}
        self.saved: dict[object, tuple[str, int]] = {}
        self.kept: list[Any] = []
        self.kind = "cross-entropy"

    def observe(self, node: onnx.NodeProto, outputs: Sequence[Any]) -> None:
        self.kind = "cross-entropy" if outputs else (node_annotation(node) or ("", "", ""))[1]
        for output in outputs:
            self.kept.append(output)
            kind = (node_annotation(node) or ("", "", ""))[1]
            self.made.setdefault(output.untyped_storage().data_ptr(), kind)

    def pack(self, tensor: Any) -> Any:
        self.kept.append(tensor)
        storage, base = tensor.untyped_storage(), tensor if tensor._base is None else tensor._base
        parameter = base.is_leaf and base.requires_grad
        if not parameter and storage.data_ptr() not in self.inputs:
            kind = self.made.get(storage.data_ptr(), self.kind)
            self.saved[storage.data_ptr()] = (kind, storage.nbytes())
        return tensor


def torch_saves(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Counter[str]:
    """Bytes that autograd saves, by layer kind."""
    given = {n: np.ascontiguousarray(a) for n, a in feeds.items()}
    record = Autograd(frozenset(torch.from_numpy(a).data_ptr() for a in given.values()))
    with torch.autograd.graph.saved_tensors_hooks(record.pack, lambda t: t):
        reference(model, given, torch.float32, record.observe)
    return total(record.saved)
