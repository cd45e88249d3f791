"""Optimizers, names, buffers and refusals of the PyTorch export."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from planc.errors import FeedError, ModelError, PlancError, UsageError
from planc.torch import export_training_step, load_into
from planc.torch.settings import settings_of
from planc.training import Optimizer


class OwnStep(torch.optim.SGD):  # type: ignore[misc]
    """Steps in its own way."""

    def step(self, closure: object = None) -> None:
        """Does something else."""


def test_importing_planc_does_not_import_torch() -> None:
    code = "import sys, planc, planc.cli.main, planc.training; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_read_from_torch() -> None:
    layer = nn.Linear(2, 2)
    named = dict(layer.named_parameters())
    sgd = torch.optim.SGD(
        [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}], 0.3, momentum=0.8
    )
    first, second = settings_of(sgd, named).groups
    assert (first.members, first.rule) == (["weight"], Optimizer("momentum", 0.3, 0.8, weight_decay=0.1))
    assert (second.members, second.rule) == (["bias"], Optimizer("momentum", 0.3, 0.8))
    (adamw,) = settings_of(torch.optim.AdamW(layer.parameters(), 0.2, (0.7, 0.8), 1e-5, 0.4), named).groups
    assert adamw.rule == Optimizer("adamw", 0.2, betas=(0.7, 0.8), epsilon=1e-5, weight_decay=0.4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: torch.optim.Rprop(p), "no update rule for Rprop"),
        (lambda p: OwnStep(p, 0.1), "OwnStep has a step of its own"),
        (lambda p: torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1), "none of the module's parameters"),
    ],
)
def test_what_an_optimizer_cannot_be_is_named(make: Callable[..., torch.optim.Optimizer], said: str) -> None:
    layer = nn.Linear(2, 2)
    parameters = list(layer.parameters())
    with pytest.raises(UsageError, match=said):
        settings_of(make(parameters), dict(layer.named_parameters()))


@pytest.mark.parametrize(
    ("module", "batch", "error", "said"),
    [
        (nn.Linear(2, 2).eval(), (torch.ones(1, 2), None), UsageError, "evaluation mode"),
        (nn.Linear(2, 2), torch.ones(1, 2), UsageError, r"\(inputs, targets\)"),
        (nn.ReLU(), (torch.ones(1, 2), None), ModelError, "the loss must be a scalar that depends on a parameter"),
        (
            nn.Linear(2, 2),
            ((torch.ones(1, 2), {3}), None),
            FeedError,
            r"inputs\[1\] is a set; every value of a batch must be",
        ),
        (nn.LazyLinear(2), (torch.ones(1, 2), None), ModelError, "parameter 'weight' has no values yet"),
        (
            nn.Linear(2, 2, dtype=torch.complex64),
            (torch.ones(1, 2), None),
            ModelError,
            "parameter 'weight' is of torch.complex64",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(module: nn.Module, batch: object, error: type[PlancError], said: str) -> None:
    with pytest.raises(error, match=said):
        export_training_step(module, lambda y: y.sum(), batch, Optimizer("sgd"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            lambda y: {"ce": y.sum(), "more": y},
            r"the loss <lambda> \(test_torch_settings.py:\d+\) must return .*'ce', 'more'",
        ),
        (lambda y: None, "not None; of several losses return the weighted sum"),
        (lambda y: y, r"not of shape \[1, 2\]; reduce it"),
        (lambda y: y.detach().sum(), "not one that no trained parameter leads to"),
        (
            lambda y: (torch.special.airy_ai(y.detach()) * y).sum(),
            r"layer 'loss', forward, test_torch_settings.py:\d+\) has no lowering",
        ),
        (lambda y: y[y > 0].sum(), r"test_torch_settings.py:\d+.*values say"),
    ],
)
def test_what_no_loss_is_is_named_with_its_line(loss: Callable[[Tensor], object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        export_training_step(nn.Linear(2, 2), loss, (torch.ones(1, 2), None), Optimizer("sgd"))  # type: ignore[arg-type]


class Averaged(nn.Module):
    """Keeps an average of its inputs in a buffer, has a constant one, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("average", torch.zeros(3))
        self.register_buffer("offset", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor, extra: dict[str, Tensor]) -> dict[str, Tensor]:
        self.average.mul_(0.5).add_(x.mean(0), alpha=0.5)
        return {"y": self.weight * x + self.offset + extra["shift"]}


def test_buffers_named_inputs_and_structures() -> None:
    module, x, shift = Averaged(), torch.randn(4, 3), torch.randn(3)
    inputs = {"x": x, "extra": {"shift": shift}}
    model = export_training_step(module, lambda out, t: (out["y"] - t).square().mean(), (inputs, x), Optimizer("sgd"))
    assert violations(model) == []
    assert set(state_pairs(model)) == {"weight", "average"}
    feeds = {"x": x.numpy(), "extra.shift": shift.numpy(), "target": x.numpy()}
    results = run_steps(model, feeds, 2)
    module(x, {"shift": shift})
    module(x, {"shift": shift})
    state = {name: results[-1][following] for name, following in state_pairs(model).items()}
    np.testing.assert_allclose(state["average"], module.average, rtol=1e-6)


def test_a_parameter_named_like_an_input_keeps_its_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.loss = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.x * x + self.loss

    model = export_training_step(Odd(), lambda y: y.sum(), (torch.ones(2), None), Optimizer("sgd"))
    assert violations(model) == []
    assert {i.name for i in model.graph.input} == {"batch.x", "x", "loss", "optimizer.lr"}


def test_parameters_outside_the_optimizer_are_constants() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    step = export_training_step(model, lambda y: y.sum(), (torch.ones(2, 3), None), optimizer)
    assert violations(step) == []
    assert set(state_pairs(step)) == {"1.weight", "1.bias"}
    kept = {t.name: numpy_helper.to_array(t) for t in step.graph.initializer}
    np.testing.assert_array_equal(kept["0.weight"], model[0].weight.detach())


def test_state_that_does_not_fit_is_refused_and_nothing_is_copied() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    for state, said in (
        ({"weight": np.zeros((1, 2), np.float32), "other": np.zeros(1)}, "'other' is no parameter"),
        ({"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(2)}, r"'bias' has shape \[2\]"),
    ):
        with pytest.raises(FeedError, match=said):
            load_into(layer, state)
    assert torch.equal(layer.weight, before)
