"""Every policy against planc's own planner: networks of the papers on their cards, at shares of the liveness peak.

    python -m benchmarks.policies run [--networks resnet50,gpt2] [--cards titan-x-maxwell] [--shares 0.8,0.5,0.3,0.2]
                                      [--solvers mip,dtr] [--time-limit 10]
    python -m benchmarks.policies deepest [--solvers layrub,mip] [--depths 1922,2504]  ResNets of batch 16 in 12 GB
    python -m benchmarks.policies again --time-limit 60                     mip once more where another policy is faster
    python -m benchmarks.policies claims                                    what papers say they save, beside planc
    python -m benchmarks.policies published --solvers checkmate,moccasin,mip [--time-limit 60]
    python -m benchmarks.policies measured [--networks resnet18,gpt2] [--shares 0.6,0.4,0.25] [--solvers mip,layup]
                                                                            plans run on this machine's CPU
    python -m benchmarks.policies table                                     docs/results/policies.md from the results

Results go to benchmarks/results/policies.json, row by row; rows that are there already are left alone, so that a run that
was broken off goes on, and several may run side by side.
"""

import argparse
import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.policies_claims import DEPTHS, claims, deepest, published
from benchmarks.policies_grid import CARDS, GRAPHS, NETWORKS, Case, results_of
from benchmarks.policies_measured import measured
from benchmarks.policies_picture import write_picture
from benchmarks.policies_table import write_table
from planc.schedule.solver import solver_names

RESULTS = Path(__file__).parent / "results" / "policies.json"

Found = dict[str, list[dict[str, Any]]]

SHARES = (0.8, 0.5, 0.3, 0.2)
"""Budgets of the tables by network and card, as shares of the liveness peak."""

PARTS: dict[str, Callable[[float, Iterable[str]], Iterator[dict[str, Any]]]] = {
    "claims": claims,
    "published": published,
}
"""Parts that take a time limit and solvers."""

KEYS = {
    "rows": ("network", "card", "solver", "budget_fraction"),
    "smallest": ("network", "card", "solver"),
    "deepest": ("solver",),
    "claims": ("policy", "network", "batch"),
    "published": ("instance", "solver", "budget_fraction"),
    "measured": ("network", "solver", "budget_fraction"),
}
"""The lists of results, and what tells their rows apart."""


def read_results(path: Path) -> Found:
    """What is there so far."""
    found: Found = json.loads(path.read_text()) if path.exists() and path.stat().st_size else {}
    return {kind: found.get(kind, []) for kind in KEYS}


def add(path: Path, kind: str, row: dict[str, Any]) -> None:
    """Write a row in place of the one that was there for the same key, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read_results(path)
        found[kind] = [other for other in found[kind] if any(other[k] != row[k] for k in KEYS[kind])] + [row]
        parts = [f'"{k}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for k, rows in found.items()]
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(time.strftime("%H:%M:%S"), row, flush=True)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is not there yet, network by network."""
    found = read_results(options.results)
    rows = [row for row in (*found["rows"], *found["smallest"]) if row.get("graphs") == GRAPHS]
    have = {(r["network"], r["card"], r["solver"], r.get("budget_fraction")) for r in rows}
    wanted = (*(options.shares or SHARES), *((None,) if options.least else ()))
    for card, network in product(options.cards, options.networks or NETWORKS):
        missing = {
            name: tuple(share for share in wanted if (network, card, name, share) not in have)
            for name in options.solvers or solver_names()
        }
        if any(missing.values()):
            yield Case(network, card, missing, options.time_limit)


Point = tuple[str, str, float]
"""Network, card and share of the peak."""


def violations(rows: list[dict[str, Any]]) -> dict[Point, list[str]]:
    """Points at which mip is slower than other policies, or has no plan where they have one, and what they have."""
    best: dict[Point, dict[str, Any]] = {}
    for row in rows:
        if row.get("graphs") == GRAPHS:
            point = (row["network"], row["card"], row["budget_fraction"])
            best.setdefault(point, {})[row["solver"]] = row["overhead"]
    found: dict[Point, list[str]] = {}
    for point, by_solver in best.items():
        ours = by_solver.get("mip")
        for name, theirs in by_solver.items() if "mip" in by_solver else ():
            if theirs is not None and (ours is None or ours > theirs + 1e-6):
                found.setdefault(point, []).append(f"mip {ours}, {name} {theirs}")
    return found


def again(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of mip where it has lost, with more time."""
    points: dict[tuple[str, str], list[float | None]] = {}
    for network, card, share in violations(read_results(options.results)["rows"]):
        points.setdefault((network, card), []).append(share)
    for (network, card), shares in points.items():
        yield from results_of(Case(network, card, {"mip": tuple(shares)}, options.time_limit))


def _rows(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a part as they are found, each with its list."""
    if options.part == "run":
        for case in list(cases(options)):
            yield from results_of(case)
    elif options.part == "again":
        yield from again(options)
    elif options.part == "measured":
        rows = read_results(options.results)["measured"]
        have = {(row["network"], row["solver"], row["budget_fraction"]) for row in rows}
        yield from (("measured", row) for row in measured(options, have))
    elif options.part == "deepest":
        found = deepest(options.time_limit, options.solvers or solver_names(), options.depths or DEPTHS)
        yield from (("deepest", row) for row in found)
    elif options.part in PARTS:
        part = PARTS[options.part]
        yield from ((options.part, row) for row in part(options.time_limit, options.solvers or solver_names()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def main() -> None:
    """Run a part of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "deepest", "published", "claims", "measured", "again", "table"])
    parser.add_argument("--networks", type=_words)
    parser.add_argument("--cards", type=_words, default=CARDS)
    parser.add_argument("--shares", type=_numbers)
    parser.add_argument("--solvers", type=_words)
    parser.add_argument("--depths", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--no-least", dest="least", action="store_false", help="leave least budgets out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for kind, row in _rows(options):
        add(options.results, kind, row)
    if options.part == "table":
        found = read_results(options.results)
        write_table(found)
        write_picture(found)
    for point, texts in violations(read_results(options.results)["rows"]).items():
        print("VIOLATION", point, *texts, file=sys.stderr)


if __name__ == "__main__":
    main()
