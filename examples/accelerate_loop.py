"""A training loop of Hugging Face's accelerate with a planned step: its data loaders, its logging, its checkpoints.

    python examples/accelerate_loop.py

What changes in such a loop: `compile_step` takes the module and optimizer that `prepare` returned, one call replaces
forward, `backward`, clipping and `optimizer.step()`, and `sync` comes before what reads the module. Needs
planc[torch,examples].
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import planc.torch

try:
    from accelerate import Accelerator
except ImportError as error:
    raise SystemExit("this example needs accelerate: pip install 'planc[torch,examples]'") from error


def main() -> None:
    """Three epochs on points of three classes, with a checkpoint of both."""
    torch.manual_seed(0)
    points, labels = torch.randn(96, 8), torch.arange(96) % 3
    points[torch.arange(96), labels] += 3.0
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points, labels), 16, shuffle=True)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    module, inner = accelerator.unwrap_model(model), optimizer.optimizer
    example = (points[:16], labels[:16])
    loss_of = nn.CrossEntropyLoss()
    scale = accelerator.scaler or 1.0  # there with mixed_precision="fp16" on a card
    with (
        planc.torch.compile_step(
            module,
            loss_of,
            inner,
            example,
            budget="60%",
            device="cpu",
            clip_norm=1.0,
            loss_scale=scale,
            time_limit=5.0,
        ) as step,
        tempfile.TemporaryDirectory() as folder,
    ):
        for epoch in range(3):
            for x, y in loader:
                loss = step(x, y)
                if not step.skipped:
                    schedule.step()
            accelerator.print(f"epoch {epoch + 1}: loss {float(loss):.4f}, gradient norm {step.gradient_norm:.3f}")
        step.sync()
        accelerator.save_state(folder)
        step.save(Path(folder) / "planc.safetensors", schedule=schedule)
        right = (step.evaluate(points).argmax(1) == labels).float().mean()
        accelerator.print(f"{float(right):.0%} right after training, evaluated under a plan")


if __name__ == "__main__":
    main()
