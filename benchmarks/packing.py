"""Pack every CSV of a folder and print a Markdown table: height, lower bound, excess, seconds, status.

    python benchmarks/packing.py FOLDER [--minimise] [--time-limit S] [--repeat N]
    python benchmarks/packing.py --layers L [--time-limit S] [--repeat N]        4 L buffers shaped like a training step

A capacity is read from names like `A.1048576.csv`; `--minimise` ignores it and asks for the lowest packing. Rows with
`--repeat` give the median and the largest time over the seeds 0 … N-1, and the worst height and status. The compiled
code is loaded (or compiled) by an untimed packing first. Packings of up to 5,000 buffers are checked by brute force.
"""

import argparse
from pathlib import Path
from random import Random
from statistics import median

from planc.packing.buffers import Buffer, Packing
from planc.packing.check import Verdict, check_packing
from planc.packing.csv import read_buffers
from planc.packing.model import build_model
from planc.packing.pack import pack
from planc.packing.portfolio import load_search

# The brute-force check takes a second for 1,500 buffers and grows quadratically.
CHECKED_BUFFERS = 5_000
WARM_UP = [Buffer(str(i), 1 + i * 7 % 5, ((i % 4, i % 4 + 2 + i % 3),)) for i in range(12)]


def capacity_of(path: Path) -> int | None:
    parts = path.name.split(".")
    return int(parts[-2]) if len(parts) > 2 and parts[-2].isdigit() else None


def training_step(layers: int) -> tuple[Buffer, ...]:
    """Per layer: an activation kept for the backward pass, a forward temporary, a gradient, a backward scratch."""
    random, buffers = Random(0), []
    for layer in range(layers):
        back = 2 * layers - layer
        size = random.choice((1, 2, 4, 8)) * 65536
        spans = ((size, layer, back), (size, layer, layer + 2), (size, back - 1, back + 1))
        scratch = (random.randint(1, 100) * 1024, back - 1, back)
        buffers += [Buffer(f"{layer}.{i}", s, ((a, b),)) for i, (s, a, b) in enumerate((*spans, scratch))]
    return tuple(buffers)


def measure(buffers: tuple[Buffer, ...], capacity: int | None, time_limit: float, repeat: int) -> list[Packing]:
    packings = [pack(buffers, capacity=capacity, time_limit=time_limit, seed=seed) for seed in range(repeat)]
    for packing in packings if len(buffers) <= CHECKED_BUFFERS else []:
        verdict = check_packing(buffers, packing.offsets, packing.height)
        if verdict is not Verdict.GOOD:
            raise SystemExit(f"invalid packing: {verdict.value}")
    return packings


def row(name: str, buffers: tuple[Buffer, ...], capacity: int | None, packings: list[Packing]) -> str:
    worst = max(packings, key=lambda packing: packing.height)
    bound = max(packing.lower_bound for packing in packings)
    over = 100 * (worst.height - bound) / bound if bound else 0.0
    seconds = [packing.solve_s for packing in packings]
    cells = (
        name, len(buffers), capacity or "–", worst.height, bound, f"{over:.3f}",
        f"{median(seconds):.3f}", f"{max(seconds):.3f}", worst.status,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    pack(WARM_UP, time_limit=1.0)
    load_search(build_model(WARM_UP))
    print("| instance | buffers | capacity | height | lower bound | % over | s (median) | s (max) | status |")
    print("|---|---|---|---|---|---|---|---|---|")
    instances = [(path.stem, read_buffers(path).buffers, capacity_of(path)) for path in files(options.folder)]
    if options.layers:
        instances.append((f"training step, {options.layers} layers", training_step(options.layers), None))
    for name, buffers, capacity in instances:
        goal = None if options.minimise else capacity
        print(row(name, buffers, goal, measure(buffers, goal, options.time_limit, options.repeat)), flush=True)


def files(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(folder.glob("*.csv"))


if __name__ == "__main__":
    main()
