"""Variants of planc's own kernels are choices of a plan, as engines of a library are."""

import pytest
from support.zoo_networks import small_forward

from planc.errors import DeviceError
from planc.importer.import_model import import_model
from planc.kernels.device import Variants
from planc.profiling.cuda_engines import library_calls
from planc.runtime.cuda.kernels import own_operators
from planc.training import Optimizer, differentiate
from planc.training.layout import projected_loss


def test_numbers_of_chunks_are_among_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projected_loss, "LEAST_BYTES", 1)
    step = differentiate(small_forward("gpt2").model, loss="cross-entropy", optimizer=Optimizer("sgd"), device="cuda")
    imported = import_model(step)
    found = [(name, call) for name, call, kernel in library_calls(imported) if isinstance(kernel, Variants)]
    assert [call.operator.name for _, call in found] == ["LinearCrossEntropy"]
    ((name, call),) = found
    types = dict(zip(("x", "w", "t", "s", "l", "dx", "dw"), (*call.inputs, *call.outputs), strict=True))
    node = next(n for n in step.graph.node if n.op_type == name)
    node.input[:], node.output[:] = ["x", "w", "t", "s"], ["l", "dx", "dw"]
    del step.graph.node[:]
    step.graph.node.append(node)
    with pytest.raises(DeviceError, match="pins 'chunks_3'; there are chunks_1"):
        own_operators(step, types, {name: [("chunks_3", 0)]})
