"""The cross-entropy of a traced language model in the forms for a card: one operator, and torch's numbers."""

import numpy as np
import pytest
from support.training_contract import violations
from support.training_steps import run_steps

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import planc.torch
from planc.kernels import DOMAIN
from planc.training import Optimizer
from planc.training.layout import projected_loss

CLASSES = 37


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner = nn.Embedding(CLASSES, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, CLASSES, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.tanh(self.inner(self.embed(ids))))
        return scores


def _loss(reduction: str, ignored: int, smoothing: float = 0.0):  # type: ignore[no-untyped-def]
    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        flat = scores.reshape(-1, CLASSES), labels.reshape(-1)
        each = F.cross_entropy(*flat, reduction=reduction, ignore_index=ignored, label_smoothing=smoothing)
        return each if reduction != "none" else (each * each.detach()).mean()

    return loss


@pytest.mark.parametrize(
    ("reduction", "ignored", "smoothing", "joined"),
    [("mean", -100, 0.0, True), ("sum", 3, 0.0, True), ("none", -100, 0.0, False), ("mean", -100, 0.1, False)],
)
def test_losses_and_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, reduction: str, ignored: int, smoothing: float, joined: bool
) -> None:
    monkeypatch.setattr(projected_loss, "LEAST_BYTES", 1)
    model, generator = Model(), torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(CLASSES, (3, 7), generator=generator) for _ in range(2))
    labels[0, :3] = ignored
    loss = _loss(reduction, ignored, smoothing)
    step = planc.torch.export_training_step(model, loss, (ids, labels), Optimizer("sgd", 1.0), device="cuda")
    assert violations(step) == []
    own = {n.op_type.rpartition("_")[0] for n in step.graph.node if n.domain == DOMAIN}
    assert ("LinearCrossEntropy" in own) == joined
    batch = [i.name for i in step.graph.input if i.name not in {t.name for t in step.graph.initializer}]
    feeds = dict(zip(batch, (ids.numpy(), labels.numpy()), strict=True))
    result = run_steps(step, feeds)[0]
    exact = Model().double()
    loss(exact(ids), labels).backward()
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{name}.next"], wanted, rtol=1e-4, atol=1e-5)
