"""How fast a file takes and gives swapped bytes, by size of a request and requests under way; O_DIRECT where it is allowed.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from planc.runtime import file_tier

REGION = 256 << 20
ROUNDS = 5
SETTINGS = [(depth, kib << 10) for depth in (1, 2, 4, 8) for kib in (256, 1024, 4096)]


def rates(folder: Path, depth: int, piece: int) -> tuple[float, float]:
    """GB/s out and in, of the whole region."""
    file_tier._IN_FLIGHT, file_tier._PIECE_BYTES = depth, piece
    memory = mmap.mmap(-1, REGION, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    slab = np.frombuffer(memory, np.uint8)
    tier = file_tier.FileTier(folder, REGION)
    tier._pool = ThreadPoolExecutor(depth)
    tier.store(0, slab.data)  # blocks that were never written read as zeros, without the disk
    found = []
    for move in (tier.store, tier.fetch):
        start = time.perf_counter()
        move(0, slab.data)
        found.append(REGION / (time.perf_counter() - start) / 1e9)
    tier.close()
    return found[0], found[1]


def main() -> None:
    """Print a line for each setting, fastest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    measured: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for turn in range(ROUNDS):
        for setting in SETTINGS[turn:] + SETTINGS[:turn]:
            measured[setting].append(rates(chosen.folder, *setting))
    rows = [
        {
            "in_flight": depth, "piece_kib": piece >> 10,
            "out_gb_s": round(statistics.median(out for out, _ in found), 2),
            "in_gb_s": round(statistics.median(in_ for _, in_ in found), 2),
        }
        for (depth, piece), found in measured.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: -row["out_gb_s"] - row["in_gb_s"])
    for row in rows:
        sys.stdout.write(f"{row}\n")
    if chosen.json is not None:
        load = os.getloadavg()[0]
        chosen.json.write_text(json.dumps({"rows": rows, "load_average": load}, indent=1) + "\n")


if __name__ == "__main__":
    main()
