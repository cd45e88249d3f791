"""The first five minutes, timed as a new user has them: a fresh environment, empty caches, download left out.

    python -m benchmarks.five_minutes --write

downloads what planc and PyTorch need, then times the installation into a fresh environment, each command of the path for an
ONNX file, each part of the path for a PyTorch module, and every `--help`. `--environment FOLDER` takes one that is there.
`--write` puts the tables into docs/results/five_minutes.md. Processor seconds are told beside the time that passed: on a
machine that does other things too they are what planc costs.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "five_minutes.md"
TORCH = "torch==2.13.*"
SIZE = ["--batch", "32", "--image", "112"]
ONNX_PATH = {
    "know what a step needs": "planc estimate train.onnx",
    "measure, plan, prove": "planc compile train.onnx --budget 50% --time-limit 30",
    "read the plan": "planc inspect train.plan.json --html plan.html",
    "train, compare every bit": "planc run train.plan.json --steps 10 --compare",
}
MODULE = """
import time
begun = time.perf_counter()
import torch
import planc.torch
def told(name):
    global begun
    print(f"{name}\\t{time.perf_counter() - begun:.2f}\\t{time.process_time():.2f}", flush=True)
    begun = time.perf_counter()
told("import torch and planc")
torch.manual_seed(0)
parts = []
for at in range(8):
    parts += [torch.nn.Conv2d(32 if at else 3, 32, 3, 1 if at else 2, 1), torch.nn.BatchNorm2d(32), torch.nn.ReLU()]
model = torch.nn.Sequential(*parts, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, y = torch.randn(32, 3, 112, 112), torch.randint(0, 10, (32,))
loss = torch.nn.CrossEntropyLoss()
step = planc.torch.compile_step(model, loss, optimizer, (x, y), budget="50%", time_limit=30)
told("trace, measure, plan, prove, load")
step(x, y)
told("the first step")
for _ in range(10):
    step(x, y)
told("ten more steps")
step.sync()
step.close()
told("state back in the module")
"""


@dataclass(frozen=True)
class Row:
    """A part of the path: seconds that passed, and processor seconds."""

    name: str
    wall_s: float
    cpu_s: float


def timed(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Row:
    """Run a command that has to succeed."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=dict(environment), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Row(name, time.perf_counter() - begun, cpu)


def installed(folder: Path) -> tuple[Path, Row]:
    """A fresh environment with planc and PyTorch, and how long it took without the download."""
    wheels, fresh = folder / "wheels", folder / "environment"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "-w", str(wheels), f"{ROOT}[torch]", TORCH], check=True)
    install = f"{sys.executable} -m venv {fresh} && {fresh}/bin/python -m pip install --quiet --no-index"
    command = ["bash", "-c", f"{install} --disable-pip-version-check --find-links {wheels} planc '{TORCH}'"]
    return fresh / "bin", timed("install into a fresh environment", command, folder, os.environ)


def of_onnx(programs: Path, folder: Path, environment: Mapping[str, str]) -> list[Row]:
    """The commands of the path for an ONNX file."""
    program = str(programs / "planc")
    subprocess.run([program, "zoo", "build", "resnet18", *SIZE, "-o", "train.onnx"], cwd=folder, check=True)
    return [
        timed(f"{name}: `{command}`", [program, *command.split()[1:]], folder, environment)
        for name, command in ONNX_PATH.items()
    ]


def of_module(programs: Path, folder: Path, environment: Mapping[str, str]) -> list[Row]:
    """The parts of the path for a PyTorch module, as the module's process tells them."""
    command = [str(programs / "python"), "-c", MODULE]
    done = subprocess.run(command, cwd=folder, env=dict(environment), check=True, capture_output=True, text=True)
    rows, before = list[Row](), 0.0
    for line in done.stdout.splitlines():
        name, wall, cpu = line.split("\t")
        rows.append(Row(name, float(wall), float(cpu) - before))
        before = float(cpu)
    return rows


def of_help(programs: Path, folder: Path, environment: Mapping[str, str]) -> list[Row]:
    """The fastest of three for the program's own page and each command's."""
    program = str(programs / "planc")
    listed = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    commands = [line.split()[0] for line in listed.partition("Commands:")[2].splitlines() if line.strip()]
    rows = []
    for words in ([], *([name] for name in commands)):
        tries = [
            timed(f"`{' '.join(['planc', *words, '--help'])}`", [program, *words, "--help"], folder, environment)
            for _ in range(3)
        ]
        rows.append(min(tries, key=lambda row: row.wall_s))
    return rows


def table(title: str, rows: Sequence[Row], total: bool = True) -> str:
    """Rows as a table, with their sum."""
    shown = [*rows, *([Row("together", sum(r.wall_s for r in rows), sum(r.cpu_s for r in rows))] if total else [])]
    lines = [f"| {row.name} | {row.wall_s:.2f} | {row.cpu_s:.2f} |" for row in shown]
    return "\n".join([f"## {title}", "", "| part | seconds | processor seconds |", "|---|---|---|", *lines])


def page(tables: Sequence[str], load: float) -> str:
    """The whole page."""
    head = "# The first five minutes\n\n    python -m benchmarks.five_minutes --write"
    about = (
        "Each command and each part in a fresh environment with empty caches, so that costs are measured and the search is "
        "compiled for the first time. Downloads are left out. "
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, {TORCH}; the machine "
        f"had a load of {load:.1f} when it began."
    )
    return "\n\n".join([head, textwrap.fill(about, 118), *tables]) + "\n"


def main() -> None:
    """Time everything, print it, and write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, help="an environment with planc and PyTorch, instead of a fresh one"
    )
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="planc-first-") as name:
        folder, first = Path(name), list[Row]()
        if chosen.environment is None:
            programs, row = installed(folder)
            first.append(row)
        else:
            programs = chosen.environment.absolute() / "bin"

        def clean(path: str) -> dict[str, str]:
            caches = {"XDG_CACHE_HOME": str(folder / path), "NUMBA_CACHE_DIR": str(folder / path / "numba")}
            return {**os.environ, **caches}

        tables = [table("Installation", first, total=False)] if first else []
        tables.append(table("An ONNX file: ResNet-18, batch 32, 112 pixels", of_onnx(programs, folder, clean("onnx"))))
        tables.append(
            table(
                "A PyTorch module: eight convolutions with batch-norm, batch 32, 112 pixels",
                of_module(programs, folder, clean("torch")),
            )
        )
        tables.append(table("Help", of_help(programs, folder, clean("onnx")), total=False))
    text = page(tables, load)
    print(text)
    if chosen.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
