"""How `planc compile` grows with its model: seconds and peak resident memory of each stage, for ResNets of any depth.

    python benchmarks/scale.py [DEPTH ...] [--model resnet] [--batch 16] [--device titan-x-maxwell] [--budget 12GB]
                               [--host-memory 128GB] [--time-limit 60] [--folder DIR]

For each depth the training step is built by `planc zoo build --zeros` (no disk holds the weights of the deepest) and
compiled for a card of the catalogue by `planc compile` with its page, each command in a process of its own. The time of
a stage is that of its function without the stages inside it; its memory is the highest resident set meanwhile, with
what is left of the stages before it. `start` is everything until the command begins, the interpreter included.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import reduce, wraps
from pathlib import Path
from typing import Any

STAGES = {
    "import": ("planc.compiler.request:import_to_run_on",),
    "read file": ("planc.cli.compile:read_model",),
    "costs": ("planc.compiler.request:costs_for",),
    "problem": ("planc.compiler.job:planning_problems",),
    "solve": ("planc.compiler.fit:solve",),
    "lower": (
        "planc.compiler.fit:Lowering.of",
        "planc.compiler.fit:Lowering.lowered",
        "planc.lowering.slack:simulate",
        "planc.compiler.fit:memory_profile",
    ),
    "pack": ("planc.lowering.lower:pack",),
    "assemble": ("planc.compiler.job:assemble_plan",),
    "verify": ("planc.compiler.job:require_valid",),
    "write plan": ("planc.cli.compile:Plan.save",),
    "summary": ("planc.cli.compile:compile_json",),
}
"""The functions of `planc compile`, as their callers see them; what is in none of them counts as `others`."""

_KIB = 1024


class StageClock:
    """Exclusive seconds and highest resident bytes of each stage; the innermost stage that is entered counts."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peak_bytes: defaultdict[str, int] = defaultdict(int)
        self._entered = ["start"]
        self._since = time.clock_gettime(time.CLOCK_BOOTTIME) - _age_s()

    def enter(self, stage: str) -> None:
        """Count for `stage` from now on."""
        self._count()
        self._entered.append(stage)

    def leave(self) -> None:
        """Count for the stage around this one again."""
        self._count()
        self._entered.pop()

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted as `stage`."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return counted

    def _count(self) -> None:
        now, stage = time.clock_gettime(time.CLOCK_BOOTTIME), self._entered[-1]
        self.seconds[stage] += now - self._since
        self.peak_bytes[stage] = max(self.peak_bytes[stage], _peak_bytes())
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
        self._since = now


def _age_s() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * _KIB


def run_command(args: list[str], target: Path) -> None:
    """Run `planc ARGS` in this process and write its stages to `target`, and what it printed to stdout."""
    clock = StageClock()
    main = importlib.import_module("planc.cli.main")
    for stage, functions in STAGES.items():
        for function in functions:
            module, _, name = function.partition(":")
            *outer, name = name.split(".")
            owner = reduce(getattr, outer, importlib.import_module(module))
            setattr(owner, name, clock.wrap(stage, getattr(owner, name)))
    clock.enter("others")
    sys.argv = ["planc", *args]
    try:
        main.main()
    finally:
        clock.leave()
        found = {name: [clock.seconds[name], clock.peak_bytes[name]] for name in clock.seconds}
        target.write_text(json.dumps(found))


def measured(args: list[str], folder: Path) -> tuple[dict[str, tuple[float, int]], dict[str, Any]]:
    """Stages and JSON result of `planc ARGS --json` in a process of its own."""
    stages = folder / "stages.json"
    command = [sys.executable, __file__, "--stages", str(stages), *args, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder)
    return {name: (s, peak) for name, (s, peak) in json.loads(stages.read_text()).items()}, json.loads(done.stdout)


def compiled(depth: int, options: argparse.Namespace, folder: Path) -> dict[str, tuple[float, int]]:
    """Stages of building, compiling and drawing a ResNet of `depth` layers; says what the plan came to."""
    model = f"{options.model}{depth}.onnx"
    shape = ["--depth", str(depth), "--batch", str(options.batch), "--device", "cuda"]
    build, _ = measured(["zoo", "build", options.model, *shape, "--zeros", "-o", model], folder)
    limits = ["--device", options.device, "--budget", options.budget, "--time-limit", str(options.time_limit)]
    limits += ["--host-memory", options.host_memory] if options.host_memory else []
    stages, result = measured(["compile", model, *limits], folder)
    page, _ = measured(["inspect", result["plan"], "--html", "page.html"], folder)
    size = (folder / result["plan"]).stat().st_size / 1e6
    print(
        f"\n{model}: {result['layers']:,} layers, {result['segments']:,} segments, plan of {size:.1f} MB, "
        f"{result['status']}, gap {100 * result['gap']:.2f} %, step {100 * result['overhead']:+.2f} %, "
        f"{result['host_bytes'] / 2**30:.1f} GiB on the host, {result['repairs']} repairs",
        flush=True,
    )
    return {"build": _total(build), **stages, "compile in all": _total(stages), "inspect --html": _total(page)}


def _total(stages: dict[str, tuple[float, int]]) -> tuple[float, int]:
    return sum(seconds for seconds, _ in stages.values()), max(peak for _, peak in stages.values())


def main() -> None:
    """Build, compile and print one table a depth, and the same in one table for all depths at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("depths", nargs="*", type=int, default=[50, 152, 1001, 2504, 10001])
    parser.add_argument("--model", default="resnet", help="A network of the zoo with --depth.")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="titan-x-maxwell")
    parser.add_argument("--budget", default="12GB")
    parser.add_argument("--host-memory", help="Most that swapped values may take on the host.")
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--folder", type=Path, help="Keep the files there.")
    options = parser.parse_args()
    tables = {}
    with tempfile.TemporaryDirectory() as temporary:
        for depth in options.depths:
            tables[depth] = compiled(depth, options, (options.folder or Path(temporary)).resolve())
            for stage, (seconds, peak) in tables[depth].items():
                print(f"{stage:>16} {seconds:8.2f} s {peak / 1e6:8.0f} MB", flush=True)
    names = dict.fromkeys(stage for table in tables.values() for stage in table)
    print("\n| stage | " + " | ".join(f"{depth}" for depth in tables) + " |\n|---|" + "---:|" * len(tables))
    for name in names:
        cells = (tables[depth].get(name) for depth in tables)
        print(f"| {name} | " + " | ".join(f"{c[0]:.1f} s, {c[1] / 1e6:.0f} MB" if c else "" for c in cells) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stages"]:
        run_command(sys.argv[3:], Path(sys.argv[2]))
    else:
        main()
