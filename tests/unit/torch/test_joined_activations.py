"""ReLUs of a traced module join the batch-norms before them, as those of a differentiated graph do."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("planc.runtime.onednn.program")

import torch

import planc.torch
from planc.training import Optimizer


class _Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.one, self.two = (torch.nn.BatchNorm2d(4) for _ in range(2))
        self.head = torch.nn.Linear(4 * 36, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(self.first(x)))
        return self.head(torch.relu(self.two(self.second(y)) + y).flatten(1))


def test_behind_a_mean_over_labels() -> None:
    """The mean's divisor, a count that may be zero, must not keep the masks from the norms."""
    batch = (torch.randn(2, 4, 6, 6), torch.randint(0, 5, (2,)))
    loss = torch.nn.functional.cross_entropy
    model = planc.torch.export_training_step(_Residual(), loss, batch, Optimizer("sgd"), device="onednn")
    operators = [node.op_type for node in model.graph.node]
    assert "Relu" not in operators
    assert "Greater" not in operators
