"""How fast a file takes and gives swapped bytes, by size of a request and requests under way, by a pool of threads (as
planc does it) and by io_uring; O_DIRECT where it is allowed.

python benchmarks/cpu/file_tier.py [--folder FOLDER] [--json FILE]. Rates are medians of several rounds in one process,
the settings in rotated order. They are those of this disk: only their ratios say something of another one.
"""

import argparse
import json
import mmap
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from io_uring import Ring

from planc.runtime import file_tier

REGION = 128 << 20
ROUNDS = 5
SETTINGS = [
    (way, depth, kib << 10) for way in ("threads", "io_uring") for depth in (1, 2, 4, 8) for kib in (256, 1024, 4096)
]


@dataclass(frozen=True)
class Rates:
    """GB/s out and in, of the whole region, and the process's seconds of CPU for each GB."""

    out: float
    back: float
    cpu: float


def rates(folder: Path, way: str, depth: int, piece: int) -> Rates:
    """Of one way with so many requests under way, each of `piece` bytes."""
    file_tier._IN_FLIGHT, file_tier._PIECE_BYTES = depth, piece
    memory = mmap.mmap(-1, REGION, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    slab = np.frombuffer(memory, np.uint8)
    tier = file_tier.FileTier(folder, REGION)
    tier._pool = ThreadPoolExecutor(depth)
    tier.store(0, slab.data)  # blocks that were never written read as zeros, without the disk
    moves: list[Callable[[], None]] = [lambda: tier.store(0, slab.data), lambda: tier.fetch(0, slab.data)]
    ring = Ring(depth) if way == "io_uring" else None
    if ring is not None:
        moves = [partial(ring.move, tier._file, write, slab.ctypes.data, 0, REGION, piece) for write in (True, False)]
    found, cpu = [], time.process_time()
    for move in moves:
        start = time.perf_counter()
        move()
        found.append(REGION / (time.perf_counter() - start) / 1e9)
    cpu = (time.process_time() - cpu) / (2 * REGION / 1e9)
    tier.close()
    if ring is not None:
        ring.close()
    return Rates(*found, cpu)


def main() -> None:
    """Print a line for each setting, fastest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    measured: defaultdict[tuple[str, int, int], list[Rates]] = defaultdict(list)
    for turn in range(ROUNDS):
        first = turn * len(SETTINGS) // ROUNDS
        for setting in SETTINGS[first:] + SETTINGS[:first]:
            measured[setting].append(rates(chosen.folder, *setting))
    rows = [
        {
            "way": way, "in_flight": depth, "piece_kib": piece >> 10,
            "out_gb_s": round(statistics.median(rate.out for rate in found), 2),
            "in_gb_s": round(statistics.median(rate.back for rate in found), 2),
            "cpu_s_a_gb": round(statistics.median(rate.cpu for rate in found), 3),
        }
        for (way, depth, piece), found in measured.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: -row["out_gb_s"] - row["in_gb_s"])
    for row in rows:
        sys.stdout.write(f"{row}\n")
    if chosen.json is not None:
        load = os.getloadavg()[0]
        chosen.json.write_text(json.dumps({"rows": rows, "load_average": load}, indent=1) + "\n")


if __name__ == "__main__":
    main()
