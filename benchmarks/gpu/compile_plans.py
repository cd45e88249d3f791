"""Compiles plans for a card from stored cost tables, here, to be carried there for run_plans.py.

    python benchmarks/gpu/compile_plans.py COSTS PLANS SECONDS CASE:PERCENT ...     e.g. r50-32:50 gpt2:33

COSTS holds h100-CASE.costs.json; a case without one is estimated. A table of an older graph is refused.
"""

import sys
from pathlib import Path

from networks import build

from planc.compiler import CompileOptions, compile_model
from planc.costs.catalogue import estimate
from planc.costs.files import read_costs
from planc.errors import PlancError
from planc.plan.files import write_plan


def main() -> None:
    """One file and one line for each case."""
    costs, plans, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    plans.mkdir(parents=True, exist_ok=True)
    for case in sys.argv[4:]:
        name, percent = case.split(":")
        try:
            imported, measured = build(name), costs / f"h100-{name}.costs.json"
            table = read_costs(measured) if measured.exists() else estimate(imported.graph, "h100")
            plan = compile_model(imported, table, CompileOptions(f"{percent}%", time_limit_s=seconds)).plan
        except PlancError as error:
            print(f"{case}: {error}", flush=True)
            continue
        write_plan(plan, plans / f"{name}.{percent}.plan.json")
        predicted = plan.prediction.step_ns / 1e6
        print(f"{case}: slab {plan.memory.slab_bytes >> 20} MiB, {len(plan.copies)} copies, {predicted:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
