"""Every operator of torch's own core list is lowered, decomposed into what is, or refused by name."""

import pytest

pytest.importorskip("torch")

import torch

from planc.torch.canonical import replaced_operators
from planc.torch.pairs import written_operators
from planc.torch.refused import REFUSED
from planc.torch.rules import HANDLERS
from planc.torch.trace import decompositions

SIZES = ("sym_numel", "sym_size", "sym_storage_offset", "sym_stride")
"""Operators on sizes, which are numbers before anything is lowered."""

CREATED = {"arange", "empty", "empty_strided", "full", "scalar_tensor", "fill"}
"""Operators without a tensor operand: the trace holds their result as a constant."""


def core() -> list[torch._ops.OpOverload]:
    """What torch tags as core, without overloads that write into an argument."""
    # dir(torch.ops.aten) knows only what this process has touched; the dispatcher knows all.
    schemas = (name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names() if "aten::" in name)
    found = []
    for name in sorted({schema.partition(".")[0] for schema in schemas}):
        packet = getattr(torch.ops.aten, name, None)
        if isinstance(packet, torch._ops.OpOverloadPacket):
            overloads = (getattr(packet, overload) for overload in packet.overloads())
            found += [op for op in overloads if torch.Tag.core in op.tags and "out" not in op._overloadname]
    return found


def is_treated(op: torch._ops.OpOverload) -> bool:
    name = op._schema.name.removeprefix("aten::")
    known = op in HANDLERS or op in REFUSED or op in decompositions() or op in replaced_operators()
    known = known or op in written_operators()
    return known or name in CREATED or name.startswith(SIZES)


def test_no_core_operator_is_left_out() -> None:
    listed = core()
    assert len(listed) > 150
    assert [str(op) for op in listed if not is_treated(op)] == []


def test_what_is_refused_has_no_handler() -> None:
    assert set(REFUSED) & set(HANDLERS) == set()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(1.0, 7.0, 2.0),
        lambda: torch.full((3,), 0.5),
        lambda: torch.scalar_tensor(2.0).expand(3),
        lambda: torch.empty(3).fill_(4.0),
        lambda: torch.empty_strided((3,), (1,)).zero_(),
    ],
    ids=["arange", "full", "scalar_tensor", "fill", "empty_strided"],
)
def test_tensors_made_of_nothing_are_constants(make: object) -> None:
    from support.training_steps import run_steps

    import planc.torch
    from planc.training import Optimizer

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.w * make() * x).sum()  # type: ignore[operator]

    module, x = Scaled(), torch.tensor([0.3, 0.7, -1.0])
    model = planc.torch.export_training_step(module, lambda y: y, (x, None), Optimizer("sgd"))
    assert float(run_steps(model, {"x": x.numpy()})[0]["loss"]) == pytest.approx(float(module(x)), rel=1e-6)


def test_a_tensor_that_grows_is_refused_and_one_that_shrinks_keeps_its_values() -> None:
    from support.training_steps import run_steps

    import planc.torch
    from planc.errors import ModelError
    from planc.training import Optimizer

    class Resized(torch.nn.Module):
        def __init__(self, *size: int) -> None:
            super().__init__()
            self.w, self.size = torch.nn.Parameter(torch.ones(())), size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = x.clone().resize_(*self.size)
            return (self.w * y).sum()

    x = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    model = planc.torch.export_training_step(Resized(2, 2), lambda y: y, (x, None), Optimizer("sgd"))
    assert float(run_steps(model, {"x": x.numpy()})[0]["loss"]) == 7.5
    with pytest.raises(ModelError, match="values that nobody wrote"):
        planc.torch.export_training_step(Resized(4, 3), lambda y: y, (x, None), Optimizer("sgd"))
