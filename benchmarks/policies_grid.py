"""Networks of the papers on cards of the catalogue: every policy at shares of the liveness peak, and its least budget.

Graphs are those that planc builds for a card (`--device cuda`): convolutions, their gradients, norms, pools and attention
are operators of planc's own, which take no unfolded images and no transposed copies. Times are those of a roofline
(docs/solver.md), never of a card.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from planc.compiler.job import CompileJob
from planc.costs.catalogue import estimate
from planc.enums import Status
from planc.errors import InfeasibleBudgetError, PolicyScopeError
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.save import write_structure
from planc.report.trials import Effort, Trial, rows_of
from planc.schedule.solver import SolveOptions, load_solver, solve
from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer
from planc.zoo import ZooOptions, build_forward

NETWORKS = {
    "alexnet": 128,
    "vgg16": 64,
    "googlenet": 128,
    "inception_v4": 32,
    "resnet50": 64,
    "resnet101": 32,
    "resnet152": 32,
    "densenet121": 32,
    "unet": 4,
    "gpt2": 8,
    "bert_base": 32,
}
"""Networks and batch sizes: AlexNet and GoogLeNet of vDNN, VGG-16 of its smaller setting, the others of SuperNeurons'
and later papers."""

CARDS = ("titan-x-maxwell", "h100", "k40c", "p100")

EXACT = ("checkmate", "checkmate-lp", "poet", "moccasin", "offmate")
GRAPHS = "cuda"
"""Operator forms of the graphs, noted in every row: rows of other graphs are not taken for rows of these."""

UNTRIED = "untried"
"""An exact policy that ran out of time within a larger budget."""


@dataclass(frozen=True)
class Case:
    """A network on a card, and what is wanted there of each solver: shares of the peak, its least budget where None."""

    network: str
    card: str
    wanted: dict[str, tuple[float | None, ...]]
    time_limit_s: float


Result = tuple[str, dict[str, Any]]
"""A row, and the list that it belongs to: `rows` or `smallest`."""


@lru_cache(maxsize=1)
def imported_of(network: str, **options: Any) -> ImportedModel:
    """A zoo network's training step, whose weights are never drawn."""
    built = build_forward(network, ZooOptions(**options), values=False)
    step = differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("momentum"), device=GRAPHS, parameters=built.parameters
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{network}.onnx"
        write_structure(step, path)
        return import_model(path, fused=True)


def job_of(network: str, card: str, **options: Any) -> CompileJob:
    """The compile job of a zoo network on a card."""
    imported = imported_of(network, **options)
    return CompileJob.of(imported, estimate(imported.graph, card, imported.calls))


def results_of(case: Case) -> Iterator[Result]:
    """A row for each solver and share, and one with the solver's least budget.

    `mip` goes from the smallest share up, because it knows its earlier plans; the others from the largest down, and an
    exact policy that ran out of time is not tried within less.
    """
    job = job_of(case.network, case.card, batch=NETWORKS[case.network])
    place = {"network": case.network, "batch": NETWORKS[case.network], "card": case.card, "graphs": GRAPHS}
    for name, wanted in case.wanted.items():
        late, refused, slabs = False, False, list[int]()
        for share in sorted(filter(None, wanted), reverse=name != "mip"):
            row = _untried() if late else _tried(job, name, share, case.time_limit_s)
            late = late or (name in EXACT and row["status"] == Status.TIMEOUT)
            refused = row["status"] == Status.REFUSED
            slabs += [row["slab_bytes"]] if row["slab_bytes"] else []
            yield "rows", {**place, "solver": name, "budget_fraction": share, **row}
        if None in wanted and not refused:
            yield "smallest", {**place, "solver": name, **_least(job, name, slabs, case.time_limit_s)}


def _tried(job: CompileJob, name: str, share: float, seconds: float) -> dict[str, Any]:
    budget = int(job.usual.liveness_peak_bytes * share)
    (row,) = rows_of(job, [Trial(budget, name)], Effort(seconds, remember=False))
    return {
        "status": row.status,
        "overhead": None if row.overhead is None else round(row.overhead, 6),
        "slab_bytes": row.slab_bytes,
        "allocator_bytes": row.allocator_bytes,
        "needed_bytes": row.minimum_budget_bytes if row.overhead is None else None,
        "solve_s": round(row.solve_s, 2),
    }


def _untried() -> dict[str, Any]:
    names = ("overhead", "slab_bytes", "allocator_bytes", "needed_bytes")
    return {"status": UNTRIED, **dict.fromkeys(names), "solve_s": 0.0}


def _least(job: CompileJob, name: str, slabs: Sequence[int], seconds: float) -> dict[str, Any]:
    """Bytes of the least packed plan known of a policy, the rows' `slabs` included, or what it takes with memory without
    end, where that is more than the liveness peak."""
    started, peak = time.perf_counter(), job.usual.liveness_peak_bytes
    try:
        found = job.budget_bytes("min", name)
    except InfeasibleBudgetError:
        found = _unlimited(job, name, seconds)
    found = min((size for size in (found, *slabs) if size is not None), default=None)
    return {
        "slab_bytes": found,
        "smallest_fraction": None if found is None else round(found / peak, 4),
        "layer_alone": round(job.least_bytes / peak, 4),
        "solve_s": round(time.perf_counter() - started, 2),
    }


def _unlimited(job: CompileJob, name: str, seconds: float) -> int | None:
    problem = replace(job.usual.problem, budget_bytes=1 << 50)
    try:
        solution = solve(load_solver(name), problem, SolveOptions(time_limit_s=seconds))
    except PolicyScopeError:
        return None
    return max(solution.peak_bytes, solution.allocator_bytes or 0)
