"""Packing instances that no rule was tuned on: random tilings, and perturbed copies of given instances.

    python benchmarks/packing_unseen.py FOLDER [--time-limit 20] [--seeds 10] [--counts 200 250] [--dropped 0.05]
                                               [--first 0]

FOLDER holds CSV files; one named NAME.CAPACITY.csv is packed first, within 60 s, and its relatives fit that capacity;
those of any other are packed as low as they can be. Every tiling fits 2^20 bytes. `--first` is the seed of the first
tiling, and the seed of the relatives is one more, so that another one gives instances not seen before.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from planc.packing.buffers import Buffer
from planc.packing.csv import read_buffers
from planc.packing.pack import pack

GRID = 1024
"""Steps of time and of bytes into which tilings are cut; A–F have the same."""


@dataclass(frozen=True)
class Tile:
    """A buffer at its place: bytes [bottom, top) at the times [start, end)."""

    start: int
    end: int
    bottom: int
    top: int

    def buffer(self, name: int) -> Buffer:
        return Buffer(str(name), self.top - self.bottom, ((self.start, self.end),))


def tiling(random: Random, count: int, dropped: float = 0.0) -> list[Buffer]:
    """A square of 1 MiB cut `count` - 1 times across or along, the larger pieces more often; a part is `dropped`."""
    tiles = [Tile(0, GRID * GRID, 0, GRID * GRID)]
    while len(tiles) < count:
        areas = [(t.end - t.start) * (t.top - t.bottom) for t in tiles]
        [at] = random.choices(range(len(tiles)), areas)
        tiles[at : at + 1] = cut(tiles[at], random)
    return named([t for t in tiles if random.random() >= dropped], random)


def cut(tile: Tile, random: Random) -> list[Tile]:
    """The tile in two, or as it is where a side of one step cannot be cut."""
    if random.random() < 0.5:
        steps = (tile.end - tile.start) // GRID
        if steps < 2:
            return [tile]
        at = tile.start + GRID * random.randrange(1, steps)
        return [replace(tile, end=at), replace(tile, start=at)]
    steps = (tile.top - tile.bottom) // GRID
    if steps < 2:
        return [tile]
    at = tile.bottom + GRID * random.randrange(1, steps)
    return [replace(tile, top=at), replace(tile, bottom=at)]


def named(tiles: Sequence[Tile], random: Random) -> list[Buffer]:
    """The tiles as buffers in random order, so that nothing tells where they lay."""
    return [tile.buffer(i) for i, tile in enumerate(random.sample(tiles, len(tiles)))]


def relatives(
    buffers: Sequence[Buffer], offsets: Sequence[int], capacity: int, seed: int
) -> Iterator[tuple[str, list[Buffer]]]:
    """Changed copies of a packed instance that fit the same capacity, named."""
    tiles = [Tile(*b.lifetimes[0], at, at + b.size) for b, at in zip(buffers, offsets, strict=True)]
    horizon = max(t.end for t in tiles)
    mirrored = [replace(t, start=horizon - t.end, end=horizon - t.start) for t in tiles]
    random = Random(seed)
    yield "reversed", named(mirrored, random)
    yield "0.9 of them", named(random.sample(tiles, len(tiles) * 9 // 10), random)
    yield "grown", named(grown(tiles, horizon, capacity, random), random)
    yield "a third cut", named([p for t in tiles for p in (cut(t, random) if random.random() < 0.33 else [t])], random)
    yield "recut", named(recut(mirrored, horizon, capacity, random), random)


def grown(tiles: Sequence[Tile], horizon: int, capacity: int, random: Random) -> list[Tile]:
    """Each tile, in random order, as long and then as high as its neighbours allow."""
    result = list(tiles)
    for at in random.sample(range(len(result)), len(result)):
        t, others = result[at], [o for k, o in enumerate(result) if k != at]
        beside = [o for o in others if o.bottom < t.top and t.bottom < o.top]
        t = replace(
            t, start=max((o.end for o in beside if o.end <= t.start), default=0),
            end=min((o.start for o in beside if o.start >= t.end), default=horizon),
        )  # fmt: skip
        over = [o for o in others if o.start < t.end and t.start < o.end]
        result[at] = replace(
            t, bottom=max((o.top for o in over if o.top <= t.bottom), default=0),
            top=min((o.bottom for o in over if o.bottom >= t.top), default=capacity),
        )  # fmt: skip
    return result


def recut(tiles: Sequence[Tile], horizon: int, capacity: int, random: Random) -> list[Tile]:
    """A quarter of the tiles removed, the rest grown over the holes, and as many cuts made at random."""
    result = grown(random.sample(tiles, len(tiles) * 3 // 4), horizon, capacity, random)
    while len(result) < len(tiles):
        at = random.randrange(len(result))
        result[at : at + 1] = cut(result[at], random)
    return result


def training_relatives(buffers: Sequence[Buffer], seed: int) -> Iterator[tuple[str, list[Buffer]]]:
    """Changed copies of a training set, named; whether they pack at their load is not known beforehand."""
    random = Random(seed)
    horizon = max(b.lifetimes[-1][1] for b in buffers)
    yield "reversed", [moved(b, -1, horizon) for b in buffers]
    yield "sizes within 20 %", [replace(b, size=max(1, int(b.size * random.uniform(0.8, 1.2)))) for b in buffers]
    yield "0.8 of them", random.sample(buffers, len(buffers) * 4 // 5)
    yield "with its mirror, half a step later", [*buffers, *(moved(b, -1, horizon + horizon // 2) for b in buffers)]
    yield "twice, half a step apart", [*buffers, *(moved(b, 1, horizon // 2) for b in buffers)]


def moved(buffer: Buffer, sign: int, by: int) -> Buffer:
    """The buffer with the times multiplied by `sign` (1, or -1 for time reversed) and moved."""
    spans = (sorted((sign * lower + by, sign * upper + by)) for lower, upper in buffer.lifetimes)
    return replace(buffer, lifetimes=tuple(sorted((a, b) for a, b in spans)))


def report(name: str, buffers: Sequence[Buffer], capacity: int | None, seconds: float) -> None:
    """Pack and print a row."""
    packing = pack(buffers, capacity=capacity, time_limit=seconds)
    over = 100 * (packing.height / packing.lower_bound - 1)
    print(f"| {name} | {len(buffers)} | {over:.2f} | {packing.solve_s:.1f} | {packing.status} |", flush=True)


def main() -> None:
    """One row an instance: buffers, percent over the lower bound, seconds, status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--counts", type=int, nargs="*", default=[200, 250])
    parser.add_argument("--dropped", type=float, default=0.0)
    options = parser.parse_args()
    for file in sorted(options.folder.glob("*.csv")):
        buffers, limit = read_buffers(file).buffers, file.stem.rpartition(".")[2]
        if limit.isdigit():
            known = pack(buffers, capacity=int(limit), time_limit=60.0)
            for name, changed in relatives(buffers, known.offsets, int(limit), options.first + 1):
                report(f"{file.stem} {name}", changed, int(limit), options.time_limit)
        else:
            for name, changed in training_relatives(buffers, options.first + 1):
                report(f"{file.stem} {name}", changed, None, options.time_limit)
    for count in options.counts:
        for seed in range(options.first, options.first + options.seeds):
            tiles = tiling(Random(seed), count, options.dropped)
            report(f"tiling {seed}", tiles, GRID * GRID, options.time_limit)


if __name__ == "__main__":
    main()
