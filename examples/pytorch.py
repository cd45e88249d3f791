"""Train a PyTorch module in half of its memory, and put the trained state back into it.

    python examples/pytorch.py

Needs planc[torch].
"""

import torch

import planc
import planc.torch


def main() -> None:
    """A small convolutional network on random images: three planned steps."""
    torch.manual_seed(0)
    blocks = [(torch.nn.LazyConv2d(16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()) for _ in range(6)]
    head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10))
    model = torch.nn.Sequential(*(layer for block in blocks for layer in block), *head)
    model(torch.randn(2, 3, 32, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    graph = planc.torch.export_training_step(model, torch.nn.CrossEntropyLoss(), (images, labels), optimizer)
    plan = planc.compile(graph, budget="50%", time_limit=3)
    with planc.load(plan, graph) as step:
        for _ in range(3):
            print("loss", float(step({"input": images.numpy(), "labels": labels.numpy()})["loss"]))
        planc.torch.load_into(model, step.state(), optimizer)


if __name__ == "__main__":
    main()
