"""planc's half of `head_to_head.py`: a step of the zoo profiled, planned within shares of PyTorch's memory, and run."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from card_networks import CASES, Case, import_case
from processes import MIB, Row, alone, median_ms, row_of, together, used

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.store import read_costs, write_costs
from planc.costs.table import CostTable
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.profiling.profile import profile
from planc.runtime.differing import differing, first_made
from planc.runtime.measure import UnplannedStep, synthetic_feeds
from planc.runtime.own_kernels import kernel_versions
from planc.runtime.step import TrainingStep, load

PRECISIONS = {"tf32": "float32", "bf16": "bf16"}
REPEATS = 50
"""Steps in a row, each from the state of the one before, which are run twice and whose bits are compared."""


def case_of(step: str, precision: str) -> Case:
    """The zoo's network of a step in a precision."""
    case = CASES[step]
    return Case(case.network, case.options, case.optimizer, PRECISIONS[precision])


KERNELS = "kernels"
"""Column of planc's rows: the version of its own kernels that they ran by, and the graph's hash."""


def row(imported: ImportedModel, plan: Plan) -> Row:
    """Time, memory and bits of one plan; runs in a process of its own."""
    before = used()
    with load(plan, imported, replay=False) as step:
        feeds = synthetic_feeds(imported.graph, 0)
        step(feeds)
        driver = (used() - before) // MIB
        executor = step._executor
        launched = median_ms(executor.run_step)
        executor._queue = step.device.capture(executor._queue_step)
        replayed = median_ms(executor.run_step)
        repeatable = _repeats(step, feeds)
    with load(plan, imported) as step:
        first = first_difference(step, feeds)
    if first:
        print("bits differ, first in", first, Counter(plan.layer_forms.values()), flush=True)
    facts = {KERNELS: version_of(imported), "cudnn": cudnn_of(plan), "first_differing": first}
    return facts | row_of(
        asked_mib=plan.memory.budget_bytes // MIB, driver_mib=driver, ms=min(launched, replayed),
        predicted_ms=round(plan.prediction.step_ns / 1e6, 3), bound_ms=round(plan.certificate.lower_bound_ns / 1e6, 3),
        planning_s=round(plan.certificate.solve_s, 1), bits_equal=not first, repeatable=repeatable,
    )  # fmt: skip


def cudnn_of(plan: Plan) -> str:
    """The version of cuDNN that the plan's costs were measured with, as 9.19."""
    number = int(plan.costs.versions.get("cudnn", 0))
    return f"{number // 10000}.{number // 100 % 100}"


def _repeats(step: TrainingStep, feeds: dict[str, Any]) -> bool:
    """Whether steps one after another from one state give the same losses and the same last state again, bit for bit."""
    start = step.state()

    def again() -> list[dict[str, Any]]:
        step.set_state(start)
        return [*(step(feeds) for _ in range(REPEATS)), step.state()]

    return all(map(_same, again(), again()))


def _bytes(value: Any) -> Any:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(_bytes(a[name]), _bytes(b[name])) for name in a)


def first_difference(step: TrainingStep, feeds: dict[str, Any]) -> str:
    """The first output or state in which two steps from the initial state differ from the unplanned step's; empty where
    none does."""
    unplanned = UnplannedStep(step.imported, "cuda", forms=step.plan.layer_forms)
    for _ in range(2):
        wrong = differing({**step(feeds), **step.state()}, {**unplanned(feeds), **unplanned.state})
        if wrong:
            return f"{first_made(step.imported, wrong)}, {len(wrong)} tensors differ"
    return ""


def version_of(imported: ImportedModel) -> str:
    """The version of planc's own kernels that a step runs by on a card, and the beginning of its graph's hash."""
    return " ".join([*kernel_versions(imported, "cuda").values(), imported.graph.content_hash[:16]])


def planned(imported: ImportedModel, table: CostTable, budget: int, seconds: float) -> Row:
    """A plan within `budget` MiB."""
    return {"plan": compile_model(imported, table, CompileOptions(f"{budget}MiB", time_limit_s=seconds)).plan}


def rows(
    head: Row, peak: int, known: Mapping[str, Row], shares: Sequence[str], options: argparse.Namespace
) -> Iterator[Row]:
    """A row a share of `peak` MiB: profiled once, plans solved side by side, each run alone; none without a zoo network.

    Rows that are `known`, by mode, and ran by today's kernels are not measured again.
    """
    if head["step"] not in CASES:
        return
    imported, name = import_case(case_of(head["step"], head["precision"])), f"{head['step']}.{head['precision']}"
    version = version_of(imported)
    shares = [share for share in shares if known.get(f"{share} %", {}).get(KERNELS) != version]
    if not shares:
        return
    table = _costs(imported, name, options)
    if not isinstance(table, CostTable):
        yield {**head, "system": "planc", "mode": "profile", **table}
        return
    write_costs(table, options.out / f"{name}.costs.json")
    known_plans = {share: plan for share in shares if (plan := _known_plan(imported, f"{name}.{share}", options))}
    budgets = {share: peak * int(share) // 100 for share in shares if share not in known_plans}
    works = [partial(planned, imported, table, budget, options.seconds) for budget in budgets.values()]
    plans = dict(zip(budgets, together(works, len(works), card=False), strict=True)) if works else {}
    for share in shares:
        plan = plans.get(share) or {"plan": known_plans[share]}
        found = alone(partial(row, imported, plan["plan"]), lock=options.lock) if "plan" in plan else plan
        yield {**head, "system": "planc", "mode": f"{share} %", **found}


def _known_plan(imported: ImportedModel, name: str, options: argparse.Namespace) -> Plan | None:
    """The plan of an earlier run, if it was made for this graph and these kernels."""
    file = options.known / f"{name}.plan.json" if options.known else None
    plan = Plan.load(file) if file is not None and file.exists() else None
    fits = plan is not None and plan.model.hash == imported.graph.content_hash
    versions = kernel_versions(imported, "cuda").items()
    return plan if fits and plan is not None and plan.costs.versions.items() >= versions else None


def _costs(imported: ImportedModel, name: str, options: argparse.Namespace) -> CostTable | Row:
    """The costs of an earlier run of this card, or new ones, or why there are none."""
    file = options.known / f"{name}.costs.json" if options.known else None
    if file is not None and file.exists():
        found = read_costs(file)
        fits = found.model_hash == imported.graph.content_hash
        if fits and found.device.versions.items() >= kernel_versions(imported, "cuda").items():
            return found
    begin = time.perf_counter()
    made = alone(lambda: {"table": profile(imported, "cuda")}, lock=options.lock)
    print(name, f"profiled in {time.perf_counter() - begin:.1f} s", flush=True)
    return made.get("table", made)
