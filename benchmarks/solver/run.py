"""The solver's benchmark: `python benchmarks/solver/run.py [PATTERN [SECONDS]]` prints one table row a case.

Overhead, bound and gap are percentages of the computation time of every task once; seconds include everything from the
problem in memory to the checked schedule. SECONDS replaces the time limits of the cases.
"""

import fnmatch
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpt import gpt2
from layered import random_layered
from networks import GPU_2017, H100, RTX_4090, Device, resnet

from planc.errors import PlancError
from planc.instances.instance import read_instance
from planc.problem.problem import Problem
from planc.schedule.solver import SolveOptions, load_solver, solve

GB = 10**9
Case = tuple[str, Callable[[], Problem], float]


def _instance(name: str, fraction: float) -> Callable[[], Problem]:
    def make() -> Problem:
        read = read_instance(Path(__file__).parent / "instances" / f"{name}.json")
        return read.with_budget(int(read.peak_bytes * fraction))

    return make


def _deep(layers: int, device: Device, host: int | None = None) -> Callable[[], Problem]:
    """SuperNeurons' deep ResNets: 3 (6 + 32 + n + 6) + 2 layers, batch 16, 12 GB."""
    blocks = (6, 32, (layers - 2) // 3 - 44, 6)
    return lambda: resnet(blocks, 16, device).problem(budget=12 * GB, host=host)


def _resnet50(device: Device, batch: int, fraction: float) -> Callable[[], Problem]:
    return lambda: resnet((3, 4, 6, 3), batch, device).problem(fraction)


def cases() -> Iterator[Case]:
    """Name, problem and time limit in seconds."""
    for fraction, seconds in ((0.9, 2.0), (0.8, 2.0), (0.5, 2.0), (0.3, 60.0), (0.2, 60.0), (0.12, 60.0)):
        yield f"resnet50_train {fraction}", _instance("resnet50_train", fraction), seconds
    yield "random_layered_250 0.9", _instance("random_layered_250", 0.9), 5.0
    yield "random_layered_250 0.8", _instance("random_layered_250", 0.8), 60.0
    yield "layered 1000 0.9", lambda: random_layered(1000, 0.9), 30.0
    yield "layered 1000 0.8", lambda: random_layered(1000, 0.8), 60.0
    for fraction in (0.5, 0.3, 0.2):
        yield f"ResNet-50 2017 GPU {fraction}", _resnet50(GPU_2017, 64, fraction), 30.0
    for fraction in (0.5, 0.3, 0.2):
        yield f"ResNet-50 H100 {fraction}", _resnet50(H100, 184, fraction), 60.0
    yield "ResNet-2504 2017 GPU", _deep(2504, GPU_2017), 20.0
    yield "ResNet-2504 H100", _deep(2504, H100), 60.0
    yield "ResNet-10001 2017 GPU, 128 GB host", _deep(10_001, GPU_2017, 128 * GB), 150.0
    yield "GPT-2 XL RTX 4090 24 GB", lambda: gpt2(48, 1600, 25, 1024, RTX_4090).problem(budget=24 * GB), 60.0


def main(pattern: str = "*", seconds: str | None = None) -> None:
    """Solve the cases whose name matches, each within its time limit or within `seconds`."""
    print("| case | tasks | status | overhead % | bound % | gap | limit s | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make, own_limit in cases():
        if not fnmatch.fnmatch(name, pattern):
            continue
        limit = own_limit if seconds is None else float(seconds)
        problem = make()
        base, started = problem.base_duration_ns, time.monotonic()
        try:
            found = solve(load_solver("mip"), problem, SolveOptions(time_limit_s=limit))
        except PlancError as error:
            print(f"| {name} | {len(problem.tasks)} | {type(error).__name__} | | | | {limit:g} | "
                  f"{time.monotonic() - started:.1f} |", flush=True)  # fmt: skip
            continue
        time_ns, bound = found.timeline.step_ns, found.lower_bound_ns
        print(f"| {name} | {len(problem.tasks)} | {found.status} | {100 * (time_ns / base - 1):.3f} | "
              f"{100 * (bound / base - 1):.3f} | {100 * (time_ns - bound) / base:.3f} | {limit:g} | "
              f"{time.monotonic() - started:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
