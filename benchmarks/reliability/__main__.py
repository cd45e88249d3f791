"""Runs the campaigns and writes their figures.

    PYTHONPATH=.:tests python -m benchmarks.reliability                 the short form: a few minutes
    PYTHONPATH=.:tests python -m benchmarks.reliability --scale 100     the long one: hours
    PYTHONPATH=.:tests python -m benchmarks.reliability --only killed --scale 100
    PYTHONPATH=.:tests python -m benchmarks.reliability --only punctual --scale 10    on a machine that does nothing else

Models and plans in these campaigns are small ones; `killed` and `interrupted` start processes. Fuzzing wants atheris.

The figures go to `benchmarks/results/reliability.json`, an object of named counts that each have `tried` and `failed`,
and from there to `docs/results/reliability.md`. Those of campaigns that are left out stay as they are. With `--check`
nothing is written. The exit code is 1 where anything failed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.reliability import (
    delays,
    disks,
    fields,
    fuzz,
    hostile,
    kills,
    plans,
    promises,
    refusals,
    sharing,
    steps,
)
from benchmarks.reliability.count import Campaign

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/reliability.json"
PAGE = ROOT / "docs/results/reliability.md"

CAMPAIGNS: dict[str, Campaign] = {
    "models": hostile.models,
    "damaged": hostile.damaged,
    "fuzzed": fuzz.fuzzed,
    "fields": fields.odd_fields,
    "mutated": plans.mutated,
    "delayed": delays.delayed,
    "emulated": delays.emulated,
    "random": plans.random_plans,
    "honest": steps.honest,
    "twice": steps.twice,
    "equal": steps.equal,
    "flat": steps.flat,
    "refused": refusals.refused,
    "disks": disks.disks,
    "sharing": sharing.sharing,
    "kept": promises.kept,
    "monotone": promises.monotone,
    "feasible": promises.feasible,
    "deterministic": promises.deterministic,
    "killed": kills.killed,
    "interrupted": kills.interrupted,
}

QUIET: dict[str, Campaign] = {"punctual": promises.punctual}
"""Only when they are asked for: what else the machine does would count as planc's."""

_HEAD = """# Reliability: what was tried, and what failed

Made by `make figures` from `benchmarks/results/reliability.json`; the campaigns are in `benchmarks/reliability/`, what they
defend against in [SECURITY.md](../../SECURITY.md). A short form of all of them is part of continuous integration. Each line
was counted in one run of `PYTHONPATH=.:tests python -m benchmarks.reliability` with the options that it names (scale 1 is
the short form). Seconds are those of a busy machine.

| what | tried | failed | also | options | seconds |
|---|---:|---:|---|---|---:|
"""


def main() -> int:
    """Run what is asked for; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--only", default=",".join(CAMPAIGNS))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    failed = 0
    for name in options.only.split(","):
        started = time.monotonic()
        counts = (CAMPAIGNS | QUIET)[name](options.scale)
        seconds = round(time.monotonic() - started)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # others may run at the same time
        for title, count in counts.items():
            found[title] = {**count.as_json(), "campaign": name, "scale": options.scale, "seconds": seconds}
            failed += count.failed
            print(f"{title}: {count.tried} tried, {count.failed} failed", *count.failures, sep="\n  ", flush=True)
        if not options.check:
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
            PAGE.write_text(_page(found))
    return 1 if failed else 0


def _page(found: dict[str, dict[str, object]]) -> str:
    rows = []
    for title, count in found.items():
        known = ("tried", "failed", "campaign", "scale", "seconds", "failures")
        notes = ", ".join(f"{name} {value:,}" for name, value in count.items() if name not in known)
        cells = (
            title,
            f"{count['tried']:,}",
            str(count["failed"]),
            notes,
            f"`--only {count['campaign']} --scale {count['scale']}`",
            f"{count['seconds']:,}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
