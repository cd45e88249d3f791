"""What training scripts do in a forward pass beside computing: as torch does it, or refused or told by name."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from planc.errors import ModelError
from planc.torch import export_training_step


class Teacher(nn.Module):
    """A student and its average, kept as frozen parameters that the forward pass writes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(4, 3)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for mean, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mean.mul_(0.9).add_(new, alpha=0.1)
            wanted = self.teacher(x)
        return (self.student(1.5 * x) - wanted).square().mean()


class Normed(nn.Module):
    """A batch-norm whose statistics are the mean over all batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).square().mean()


class Quantized(nn.Module):
    """Weights rounded as for an integer type, ties among them, some cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.25, 0.75, -0.25, 1.6], [-9.0, 3.0, 0.1, 9.0]]))

    def forward(self, x: Tensor) -> Tensor:
        a = torch.fake_quantize_per_tensor_affine(self.w, 0.5, 3, -4, 7)
        b = torch.fake_quantize_per_channel_affine(
            self.w, torch.tensor([0.5, 1.0]), torch.tensor([1, 0], dtype=torch.int32), 0, -4, 7
        )
        return (x @ (a + 2 * b).t()).square().mean()


class Differentiated(nn.Module):
    """A loss of the Jacobian of a network, one row of the batch at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        jacobian: Tensor = torch.vmap(torch.func.jacrev(self.inner))(x)
        return jacobian.square().mean()


class DroppedInPlace(nn.Module):
    """A dropout that is off and in place, behind an operator whose result its gradient reads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.drop = nn.Linear(4, 3), nn.Dropout(0.0, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.inner(x).softmax(-1)).square().sum()


@pytest.mark.parametrize("kind", [Teacher, Normed, Quantized, Differentiated, DroppedInPlace])
def test_losses_and_state_are_torchs(kind: type[nn.Module]) -> None:
    module, batches = kind(), [torch.randn(6, 4) for _ in range(3)]
    model = export_training_step(
        module, lambda loss: loss, (batches[0], None), torch.optim.SGD(module.parameters(), 0.1)
    )
    pairs, state = state_pairs(model), dict[str, Any]()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for x in batches:
        (made,) = run_steps(model, {"x": x.numpy(), **state})
        state = {name: made[following] for name, following in pairs.items()}
        optimizer.zero_grad()
        loss = module(x)
        loss.backward()
        optimizer.step()
        assert float(made["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    initial = kind().state_dict()
    assert all(torch.equal(tensors[name], initial[name]) for name in tensors.keys() - state.keys())
    for name, value in ((n, tensors[n]) for n in state):
        np.testing.assert_allclose(state[name], value.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


class Odd(nn.Module):
    """Does something to its own tensors, then computes."""

    def __init__(self, before: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.before = nn.Linear(4, 3), before
        self.register_buffer("table", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.before(self, x)).square().mean()


def _clamped(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.inner.weight.clamp_(-0.1, 0.1)
    return x


def _clamped_data(module: Any, x: Tensor) -> Tensor:
    module.inner.weight.data.clamp_(-0.1, 0.1)
    return x


def _assigned(module: Any, x: Tensor) -> Tensor:
    module.inner.bias.data = module.inner.bias.data * 0.5
    return x


def _grown(module: Any, x: Tensor) -> Tensor:
    module.table = torch.zeros(3) + x.mean()
    return x


def _packed(module: Any, x: Tensor) -> Tensor:
    del module
    lengths = torch.tensor([2, 1, 1, 1, 1, 1])
    return nn.utils.rnn.pack_padded_sequence(x.unsqueeze(1).expand(6, 2, 4), lengths, batch_first=True).data[:6]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (_clamped, "writes into the trained parameter 'inner.weight'"),
        (_clamped_data, "writes into the trained parameter 'inner.weight'"),
        (_assigned, r"test_what_training_does\.py:\d+ assigns to \.data"),
        (_grown, r"gives buffer 'table' of \[2\].*a value of \[3\].*call the module once"),
        (_packed, "pack_padded_sequence cuts a batch by the values of its lengths"),
        (lambda _m, x: x.half(), "operands of torch.float16 and torch.float32: convert the input"),
    ],
)
def test_what_no_graph_can_follow_is_refused_by_name(before: Callable[[Any, Tensor], Tensor], said: str) -> None:
    module = Odd(before)
    with pytest.raises(ModelError, match=said):
        export_training_step(
            module, lambda loss: loss, (torch.randn(6, 4), None), torch.optim.SGD(module.parameters(), 0.1)
        )


@pytest.mark.parametrize(
    ("wrapped", "said"),
    [
        (lambda m: nn.DataParallel(m), "DataParallel, which cuts every batch.*pass its .module"),
        (torch.jit.script, "compiled by torch.jit.*pass the module that it was made from"),
    ],
)
def test_wrappers_are_refused_by_name(wrapped: Callable[[nn.Module], nn.Module], said: str) -> None:
    module = wrapped(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    with pytest.raises(ModelError, match=said):
        export_training_step(module, lambda y: y.sum(), (torch.randn(3, 4), None), optimizer)


@pytest.mark.parametrize(
    ("draw", "said"), [(random.random, "Python's random"), (lambda: float(np.random.random()), "numpy.random")]
)
def test_numbers_drawn_in_python_are_told(draw: Callable[[], float], said: str) -> None:
    module = Odd(lambda _m, x: x * draw())
    with pytest.warns(UserWarning, match=f"draws from {said}"):
        export_training_step(
            module, lambda loss: loss, (torch.randn(6, 4), None), torch.optim.SGD(module.parameters(), 0.1)
        )


@pytest.mark.parametrize("reentrant", [True, False])
def test_buffers_that_a_checkpoint_would_write_twice_are_told(reentrant: bool) -> None:
    norm = nn.BatchNorm1d(4)

    def within(module: Any, x: Tensor) -> Tensor:
        made: Tensor = checkpoint(module.norm, x, use_reentrant=reentrant)
        return made

    module = Odd(within)
    module.norm = norm
    with pytest.warns(
        UserWarning, match="buffer 'norm.running_mean' is written in a checkpointed region: torch writes it again"
    ):
        export_training_step(
            module, lambda loss: loss, (torch.randn(6, 4), None), torch.optim.SGD(module.parameters(), 0.1)
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_modules_are_refused_by_name() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.packed(x))

    module = Mixed()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with pytest.raises(ModelError, match=r"quantized.linear_dynamic.default at test_what_.*:\d+ reads packed weights"):
        export_training_step(module, lambda y: y.sum(), (torch.ones(3, 4), None), optimizer)
