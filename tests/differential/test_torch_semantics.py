"""What torch modules do beside their operators: hooks, own autograd Functions, checkpoints, attributes, ties."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from planc.errors import ModelError
from planc.torch import export_training_step
from planc.training import Optimizer


def gradients(module: nn.Module, *batch: Tensor) -> dict[str, np.ndarray]:
    """The gradients that the exported step applies, by one step of SGD at rate 1."""
    model = export_training_step(module, lambda loss: loss, (batch, None), Optimizer("sgd", 1.0))
    assert violations(model) == []
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    names = [i.name for i in model.graph.input if i.name not in before]
    (made,) = run_steps(model, dict(zip(names, (t.numpy() for t in batch), strict=True)))
    return {name: before[name] - made[following] for name, following in state_pairs(model).items()}


def agree(module: nn.Module, *batch: Tensor) -> None:
    """The exported step's gradients are torch's."""
    found = gradients(module, *batch)
    module(*batch).backward()
    for name, parameter in module.named_parameters():
        expected = np.zeros(parameter.shape, np.float32) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(found.get(name, 0 * expected), expected, atol=1e-5, err_msg=name)


class Reversed(torch.autograd.Function):
    """Gradient reversal (Ganin and Lempitsky, 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class StraightThrough(torch.autograd.Function):
    """Rounds forward, lets the gradient through where |x| < 1; reads a saved tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x.abs() < 1)


class Net(nn.Module):
    """A layer, a function in the middle, another layer."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last, self.middle = nn.Linear(4, 6), nn.Linear(6, 2), middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x))).square().sum()


def _hooked(x: Tensor) -> Tensor:
    y = x.tanh()
    y.register_hook(lambda g: g.clamp(-0.1, 0.1))
    return y


class Checkpointed(nn.Module):
    """A region that torch would run again in its backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize(
    "middle", [Reversed.apply, StraightThrough.apply, _hooked, Checkpointed(True), Checkpointed(False)]
)
def test_functions_hooks_and_checkpoints_keep_their_gradient(middle: Callable[[Tensor], Tensor]) -> None:
    agree(Net(middle), torch.randn(3, 4))


def test_hooks_of_parameters_and_modules_apply() -> None:
    module = Net(torch.tanh)
    module.first.weight.register_hook(lambda g: g * torch.tensor([1.0, 0, 0, 1]))
    module.last.register_full_backward_hook(lambda _m, inputs, _o: (inputs[0] * 2,))
    module.first.register_forward_hook(lambda _m, _i, y: y * 3)
    agree(module, torch.randn(3, 4))


def test_weight_and_spectral_norm_train() -> None:
    module = Net(torch.tanh)
    nn.utils.parametrizations.weight_norm(module.first)
    agree(module, torch.randn(3, 4))


def test_a_batch_norm_called_twice_moves_its_statistics_twice() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.last(self.norm(x)) - self.last(self.norm(y))).square().mean()

    module, batch = Siamese(), (torch.randn(6, 4), torch.randn(6, 4) * 3 + 1)
    _statistics_follow(module, batch)


def test_instance_norm_moves_its_statistics() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).square().sum() + self.norm(x * 2).sum()

    _statistics_follow(Normed(), (torch.randn(2, 3, 5, 5),))


def _statistics_follow(module: nn.Module, batch: tuple[Tensor, ...]) -> None:
    model = export_training_step(module, lambda loss: loss, (batch, None), torch.optim.SGD(module.parameters(), 0.1))
    assert violations(model) == []
    names = [i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    results = run_steps(model, dict(zip(names, (t.numpy() for t in batch), strict=True)), 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(*batch).backward()
        optimizer.step()
    tensors = dict(module.named_buffers()) | dict(module.named_parameters())
    for name, following in state_pairs(model).items():
        np.testing.assert_allclose(results[-1][following], tensors[name].detach(), rtol=2e-5, atol=1e-6, err_msg=name)
    assert "norm.running_var" in state_pairs(model)


def test_what_would_be_lost_after_the_step_is_refused() -> None:
    memory = torch.zeros(6)
    with pytest.raises(ModelError, match=r"test_torch_semantics.py:\d+ changes a tensor of shape \[6\] in place"):
        gradients(Net(lambda x: x + memory.add_(1)), torch.randn(3, 4))
    outside = torch.ones(6, requires_grad=True)
    with pytest.raises(ModelError, match="register it as one"):
        gradients(Net(lambda x: x * outside), torch.randn(3, 4))
    module = Net(torch.tanh)
    module.first.weight.register_post_accumulate_grad_hook(lambda _p: None)
    with pytest.raises(ModelError, match=r"'first.weight' has a post-accumulate-grad hook"):
        gradients(module, torch.randn(3, 4))


def test_attributes_are_as_they_were_and_changing_numbers_are_told() -> None:
    class Counting(Net):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            self.cached = x * 2
            return super().forward(self.cached)

    module = Counting(torch.tanh)
    module.calls = 0
    with pytest.warns(UserWarning, match="'calls' of module 'Counting' changed from 0 to 1"):
        gradients(module, torch.randn(3, 4))
    assert module.calls == 0
    assert not hasattr(module, "cached")


def test_control_flow_on_values_is_refused_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"test_torch_semantics.py:\d+: the value of a tensor decides"):
        gradients(Net(lambda x: x if x.sum() > 0 else -x), torch.randn(3, 4))
    with pytest.raises(ModelError, match="as long as its input's values say"):
        gradients(Net(lambda x: x + x[x > 0].sum()), torch.randn(3, 4))


def test_experts_products_over_grouped_rows() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.weight = nn.Parameter(torch.randn(3, 8, 8))

        def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
            order = chosen.argsort()
            counts = torch.histc(chosen.float(), bins=3, min=0, max=2)
            made = torch._grouped_mm(x[order].bfloat16(), self.weight.bfloat16(), offs=counts.cumsum(0).int())
            return made.float().tanh().sum()

    module, x, chosen = Experts(), torch.randn(6, 8), torch.tensor([2, 0, 2, 1, 0, 2])
    found = gradients(module, x, chosen)
    wide = module.weight.detach().double().requires_grad_()
    torch.stack([x[i].double() @ wide[e] for i, e in enumerate(chosen)]).tanh().sum().backward()
    np.testing.assert_allclose(found["weight"], wide.grad, atol=3e-2)
