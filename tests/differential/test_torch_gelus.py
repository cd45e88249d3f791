"""GELUs that modules write out are one operator each, and train as torch does in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.training_steps import run_steps
from torch import Tensor, nn
from torch.nn import functional

import planc.torch
from planc.runtime.onednn.library import onednn
from planc.training import Optimizer
from planc.training.layout.calls import is_call

needs_onednn = pytest.mark.skipif(onednn() is None, reason="onednn-cpu-gomp is not installed")


class NewGELUActivation(nn.Module):
    """As transformers writes out GPT-2's."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class FastGELUActivation(nn.Module):
    """The same, in other operators."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


class ErfGELU(nn.Module):
    """The exact one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


class QuickGELU(nn.Module):
    """Called so, and another function."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TwoGELUs(nn.Module):
    """Takes a second argument, with which it is another function."""

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return functional.gelu(x + shift)


class Model(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, activation: nn.Module, *more: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer, self.activation, self.more = nn.Linear(24, 48), nn.Linear(48, 24), activation, more

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.outer(self.activation(3.0 * self.inner(x), *self.more))
        return found


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(6, 24, generator=generator) for _ in range(2))
    return x, y


def _step(model: nn.Module, **options: Any) -> onnx.ModelProto:
    loss = nn.functional.mse_loss
    return planc.torch.export_training_step(model, loss, _batch(), Optimizer("sgd", 1.0), device="onednn", **options)


def _forms(step: onnx.ModelProto) -> list[int]:
    """Of the GELUs and their gradients: whether they are by the hyperbolic tangent."""
    found = [node for node in step.graph.node if is_call(node, "Gelu") or is_call(node, "GeluGradient")]
    return [attribute.i for node in found for attribute in node.attribute if attribute.name == "tanh"]


WRITTEN: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "GPT-2's": (NewGELUActivation, [1, 1]),
    "fast": (FastGELUActivation, [1, 1]),
    "exact": (ErfGELU, [0, 0]),
    "torch's": (lambda: nn.GELU("tanh"), [1, 1]),
    "another function": (QuickGELU, []),
}


@needs_onednn
@pytest.mark.parametrize("name", WRITTEN)
def test_written_gelus_are_operators_and_train_as_torch(name: str) -> None:
    build, forms = WRITTEN[name]
    step, (x, y) = _step(Model(build())), _batch()
    assert _forms(step) == forms
    feeds = dict(zip((i.name for i in step.graph.input), (x.numpy(), y.numpy()), strict=False))
    result, exact = run_steps(step, feeds)[0], Model(build()).double()
    nn.functional.mse_loss(exact(x.double()), y.double()).backward()
    for parameter_name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{parameter_name}.next"], wanted, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_with_another_argument_and_under_autocast_a_module_is_left_as_it_is() -> None:
    assert _forms(_step(Model(TwoGELUs()))) == [0, 0]
    shifted = Model(TwoGELUs(), 0.5)
    step, (x, y) = _step(shifted), _batch()
    feeds = dict(zip((i.name for i in step.graph.input), (x.numpy(), y.numpy()), strict=False))
    loss = float(nn.functional.mse_loss(shifted(x), y))
    assert float(run_steps(step, feeds)[0]["loss"]) == pytest.approx(loss, rel=1e-5)
    half = _step(Model(NewGELUActivation()), autocast=torch.bfloat16)
    assert any(node.op_type == "Tanh" for node in half.graph.node)
