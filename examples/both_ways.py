"""What the finished examples share: a training planned and interrupted, the same one in eager PyTorch, and a picture."""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import planc.torch

_WIDTH, _HEIGHT, _MARGIN = 480, 260, 40
_STYLES = ("stroke:#bbb;stroke-width:5", "stroke:#0b6;stroke-width:1.5")
"""Of the first curve, wide, and of the second, drawn over it."""


@dataclass(frozen=True)
class Training:
    """A training from its start: batches, a schedule, what makes a planned step, and one step of eager PyTorch."""

    batches: planc.torch.Batches
    schedule: Any
    compile: Callable[..., planc.torch.CompiledStep]
    eager: Callable[..., torch.Tensor]


def train(step: Callable[..., Any], training: Training, count: int) -> list[float]:
    """The losses of `count` steps."""
    losses: list[float] = []
    while len(losses) < count:
        for x, y in training.batches:
            losses.append(float(step(x, y)))
            training.schedule.step()
            if len(losses) == count:
                break
    return losses


def interrupted(start: Callable[[], Training], steps: int, budget: str, file: Path) -> list[float]:
    """Half of the steps, a file, the other half; and the other half again by a step that begins with the file."""
    losses: list[float] = []
    for again in (False, True):
        training = start()
        with training.compile(budget=budget, device="cpu", time_limit=10) as step:
            objects = {"batches": training.batches, "schedule": training.schedule}
            if again:
                step.load(file, **objects)
                if train(step, training, steps - steps // 2) != losses[steps // 2 :]:
                    raise SystemExit("the interrupted training went another way")
                break
            torch.manual_seed(1)
            losses = train(step, training, steps // 2)
            step.save(file, **objects)
            losses += train(step, training, steps - steps // 2)
            memory = step.training.plan.memory
            used = memory.slab_bytes + memory.scratch_bytes
            print(f"planned in {used:,} of {memory.liveness_peak_bytes:,} bytes", flush=True)
    print("the same bits after an interrupt")
    return losses


def compare(title: str, start: Callable[[], Training], steps: int) -> None:
    """Train both ways; tell the largest difference, and draw the curves where a file is given."""
    options = argparse.ArgumentParser(description=title)
    options.add_argument("--steps", type=int, default=steps)
    options.add_argument("--budget", default="40%")
    options.add_argument("--plot", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = interrupted(start, given.steps, given.budget, Path(folder) / "half.safetensors")
    training = start()
    torch.manual_seed(1)
    torchs = train(training.eager, training, given.steps)
    worst = max(abs(a - b) for a, b in zip(ours, torchs, strict=True)) / torchs[0]
    print(f"loss {ours[0]:.4f} to {ours[-1]:.4f}; eager PyTorch {torchs[0]:.4f} to {torchs[-1]:.4f}")
    print(f"largest difference {worst:.1e} of the first loss")
    if given.plot:
        draw(given.plot, title, {"PyTorch": torchs, f"planc, {given.budget} of the peak": ours})


def draw(path: Path, title: str, curves: Mapping[str, Sequence[float]]) -> None:
    """Write the curves, one value a step, to `path`."""
    top, count = max(max(c) for c in curves.values()), max(len(c) for c in curves.values())
    across, down = (_WIDTH - 2 * _MARGIN) / max(1, count - 1), (_HEIGHT - 2 * _MARGIN) / top
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/><text x="{_MARGIN}" y="20">{title}: loss</text>',
        f'<path d="M{_MARGIN} {_MARGIN}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN}" fill="none" stroke="black"/>',
        f'<text x="4" y="{_MARGIN + 4}">{top:.1f}</text><text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 22}">{count}</text>',
    ]
    for at, ((name, values), style) in enumerate(zip(curves.items(), _STYLES, strict=False)):
        points = " ".join(
            f"{_MARGIN + i * across:.1f},{_HEIGHT - _MARGIN - v * down:.1f}" for i, v in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" fill="none" style="{style}"/>')
        y = _MARGIN + 16 * at
        parts.append(
            f'<path d="M{_WIDTH - 220} {y}h24" style="{style}"/><text x="{_WIDTH - 190}" y="{y + 4}">{name}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>", ""]))
