"""What an exported step keeps from the forward to the backward phase, against what torch's autograd saves."""

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("torch")

import torch
from support.torch_modules import CASES, Case, case
from torch.utils._pytree import tree_leaves

import planc.torch
from planc.graph.annotations import node_annotation
from planc.training import Optimizer


def kept_bytes(step: onnx.ModelProto) -> int:
    """Bytes of tensors that the forward phase makes and the backward phase reads; views count once."""
    sizes = {
        v.name: int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim]))
        * helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).itemsize
        for v in step.graph.value_info
    }
    viewed = {n.output[0]: n.input[0] for n in step.graph.node if n.op_type == "Reshape"}
    phase = {o: node_annotation(n)[2] for n in step.graph.node for o in n.output}
    read = {viewed.get(i, i) for n in step.graph.node if node_annotation(n)[2] == "backward" for i in n.input}
    return sum(sizes[name] for name in read if phase.get(name) == "forward")


def saved_by_torch(example: Case) -> int:
    """Bytes of the storages that autograd saves beside parameters, buffers and the batch."""
    given = (*example.module.parameters(), *example.module.buffers(), *tree_leaves(example.batch))
    resident = {t.untyped_storage().data_ptr() for t in given}
    saved, alive = dict[int, int](), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = example.batch[0] if isinstance(example.batch[0], tuple) else (example.batch[0],)
    # Fused attention keeps neither scores nor weights and computes them twice, as a plan does that recomputes the layer.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        example.loss(example.module(*inputs), example.batch[1])
    return sum(saved.values())


@pytest.mark.parametrize("name", CASES)
def test_never_more_than_torch(name: str) -> None:
    example = case(name)
    step = planc.torch.export_training_step(example.module, example.loss, example.batch, Optimizer("sgd"))
    assert 0 < kept_bytes(step) <= saved_by_torch(example)
