"""Compiles plans for a card from measured cost tables, there or anywhere else.

    python benchmarks/gpu/compile_plans.py COSTS PLANS SECONDS CASE:PERCENT[,PERCENT ...] ...     e.g. r50-32:50,33

COSTS holds CASE.costs.json; a table of an older graph is refused. As many compiles run at once
as there are pairs of cores.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from card_networks import build

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.store import read_costs
from planc.errors import PlancError


def compiled(costs: Path, plans: Path, seconds: float, name: str, percent: str) -> str:
    """Write one plan; a line about it."""
    try:
        imported = build(name)
        table = read_costs(costs / f"{name}.costs.json")
        plan = compile_model(imported, table, CompileOptions(f"{percent}%", time_limit_s=seconds)).plan
    except PlancError as error:
        return f"{name}:{percent}: {error}"
    plan.save(plans / f"{name}.{percent}.plan.json")
    step, base = plan.prediction.step_ns / 1e6, plan.prediction.unconstrained_step_ns / 1e6
    bound = plan.certificate.lower_bound_ns / 1e6
    return (
        f"{name}:{percent}: slab {plan.memory.slab_bytes >> 20} MiB, {len(plan.copies)} copies, {len(plan.segments)} "
        f"segments, {base:.1f} ms unconstrained, {step:.1f} planned, {bound:.1f} bound"
    )


def jobs(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """(case, percent) of every plan asked for."""
    for argument in arguments:
        name, percents = argument.split(":")
        yield from ((name, percent) for percent in percents.split(","))


def main() -> None:
    """One file and one line for each plan."""
    costs, plans, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    plans.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        wanted = [job for job in jobs(sys.argv[4:]) if not (plans / f"{job[0]}.{job[1]}.plan.json").exists()]
        for done in as_completed([pool.submit(compiled, costs, plans, seconds, *job) for job in wanted]):
            print(done.result(), flush=True)


if __name__ == "__main__":
    main()
