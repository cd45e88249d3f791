"""Resident memory over time of one training step: unplanned, planned, and PyTorch eager where it is installed.

    python examples/memory_picture.py MODEL.onnx PLAN.json OUT.svg [--steps 5]

Each runs in a process of its own, one after the other. What a process held before it read the model is taken off.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

from planc.runtime.resident import resident_bytes

MIB = 1 << 20
EVERY_S = 0.01
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 340, 60, 40, 40
COLOURS = {"PyTorch eager": "#b8461b", "unplanned": "#7a7a7a", "planned": "#1b6fb8"}


@dataclass(frozen=True)
class Curve:
    """(seconds, bytes) since a process began to read its model, and how long its steps took."""

    name: str
    points: list[tuple[float, int]]
    step_s: list[float]

    @property
    def peak(self) -> int:
        return max(size for _, size in self.points)


def planned(model: str, plan: str) -> Callable[[], object]:
    """One step of a plan on a batch that stays the same."""
    import planc
    from planc.runtime.measure import synthetic_feeds

    step = planc.load(plan, model)
    feeds = synthetic_feeds(step.imported.graph, 0)
    return lambda: step(feeds)


def unplanned(model: str, _: str) -> Callable[[], object]:
    """The same graph in ONNX Runtime's own order and memory."""
    from planc.importer.import_model import import_model
    from planc.runtime.measure import UnplannedStep, synthetic_feeds

    imported = import_model(Path(model))
    step, feeds = UnplannedStep(imported), synthetic_feeds(imported.graph, 0)
    return lambda: step(feeds)


def resnet18() -> Any:
    """He et al. 2015, as torchvision has it."""
    from torch import nn

    def norm(inside: int, outside: int, size: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, size, stride, size // 2, bias=False), nn.BatchNorm2d(outside)]

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                *norm(inside, outside, 3, stride), nn.ReLU(inplace=True), *norm(outside, outside, 3, 1)
            )
            self.beside = nn.Sequential(*(norm(inside, outside, 1, stride) if stride > 1 else []))
            self.end = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return self.end(self.inner(x) + self.beside(x))

    widths = [64, 64, 128, 256, 512]
    blocks = [
        Block(inside if first else outside, outside, 2 if first and outside > 64 else 1)
        for inside, outside in pairwise(widths)
        for first in (True, False)
    ]
    stem = [*norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def eager(_: str, __: str) -> Callable[[], object]:
    """ResNet-18, batch 32 at 112 x 112, with momentum: what `make demo` plans."""
    import torch

    module = resnet18().train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(32, 3, 112, 112), torch.randint(0, 1000, (32,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


KINDS = {"PyTorch eager": eager, "unplanned": unplanned, "planned": planned}


def child(kind: str, model: str, plan: str, steps: int) -> None:
    """Import, say so, wait for a line, load and run; then print the seconds of each step."""
    if kind == "PyTorch eager":
        import torch

        torch.nn.functional.conv2d(torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3))  # its libraries are loaded by it
    else:
        import planc.runtime.measure  # noqa: F401  what it loads is no part of a step
        from planc.runtime.ort.sessions import prepare_threads

        prepare_threads()
    print("ready", flush=True)
    sys.stdin.readline()
    step, seconds = KINDS[kind](model, plan), []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds), flush=True)


def observed(kind: str, model: str, plan: str, steps: int) -> Curve:
    """Run one kind and look at its resident memory until it ends."""
    command = [sys.executable, __file__, model, plan, "-", "--steps", str(steps), "--child", kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    stdout.readline()
    before, began, points = resident_bytes(process.pid), time.perf_counter(), [(0.0, 0)]
    stdin.write("\n")
    stdin.flush()
    while process.poll() is None and (size := resident_bytes(process.pid)):
        points.append((time.perf_counter() - began, max(0, size - before)))
        time.sleep(EVERY_S)
    text = stdout.read()
    if process.wait():
        raise SystemExit(f"{kind}: the process failed")
    while len(points) > 2 and points[-1][1] < points[-2][1]:  # it is being taken down
        points.pop()
    return Curve(kind, points, json.loads(text))


def line_of(curve: Curve) -> str:
    median = sorted(curve.step_s)[len(curve.step_s) // 2]
    return f"{curve.name}: at most {curve.peak / MIB:.0f} MiB, {1e3 * median:.0f} ms a step"


def svg(curves: list[Curve]) -> str:
    """All curves in one picture, with a line of text each."""
    last, most = max(c.points[-1][0] for c in curves), max(c.peak for c in curves) * 1.05
    across, up = (WIDTH - LEFT - 20) / last, (HEIGHT - TOP - BOTTOM) / most
    floor = HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 20 * len(curves)}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="22">resident memory of the process over time, from before the model is read</text>',
    ]
    for size in range(0, int(most / MIB) + 1, 100):
        y = floor - size * MIB * up
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{size}</text>')
    parts.append(f'<text x="{LEFT - 6}" y="{TOP - 4}" text-anchor="end">MiB</text>')
    parts.append(f'<text x="{WIDTH - 20}" y="{floor + 18}" text-anchor="end">{last:.1f} s</text>')
    for row, curve in enumerate(curves):
        path = " ".join(f"{LEFT + at * across:.1f},{floor - size * up:.1f}" for at, size in curve.points)
        colour = COLOURS[curve.name]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = HEIGHT + 20 * row
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{colour}">{line_of(curve)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Draw the picture, and print a line for each curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("plan")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--child", choices=list(KINDS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.model, chosen.plan, chosen.steps)
        return
    there = importlib.util.find_spec("torch") is not None
    kinds = [kind for kind in KINDS if there or kind != "PyTorch eager"]
    curves = [observed(kind, chosen.model, chosen.plan, chosen.steps) for kind in kinds]
    Path(chosen.out).write_text(svg(curves))
    for curve in curves:
        print(line_of(curve))
    print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
