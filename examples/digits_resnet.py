"""A small residual network learns handwritten digits in 40 % of its liveness peak, beside eager PyTorch.

    python examples/digits_resnet.py [--steps 60] [--plot curves.svg]

One-cycle schedule, Nesterov momentum, batch-norm. Half-way the training is written to a file and taken up again by a
second step, which ends with the same bits as the first. Needs planc[torch,examples]:
the digits are those that scikit-learn ships.
"""

from functools import partial

import torch
from both_ways import Training, compare
from torch import nn

import planc.torch

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise SystemExit("the digits are scikit-learn's: pip install 'planc[torch,examples]'") from error

BATCH = 32


class Residual(nn.Module):
    """x + two convolutions of it (He et al., 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


def network() -> nn.Module:
    """Three residual blocks on 8 by 8 images."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        *stem, *(Residual(16) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def start() -> Training:
    """The training from its beginning."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    digits = load_digits()
    images, labels = (
        torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1,
        torch.from_numpy(digits.target).long(),
    )
    data = torch.utils.data.TensorDataset(images, labels)
    loss = nn.CrossEntropyLoss()

    def eager(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value.detach()

    example = (images[:BATCH], labels[:BATCH])
    return Training(
        planc.torch.Batches(torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=True)),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, 200),
        partial(planc.torch.compile_step, model, loss, optimizer, example),
        eager,
    )


if __name__ == "__main__":
    compare("digits, ResNet", start, steps=60)
