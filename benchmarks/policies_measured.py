"""Policies whose plans are run on the CPU: step, peak, bits, and how far the step is from its prediction."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from planc.compiler.job import CompileJob
from planc.profiling.profile import profile
from planc.profiling.target import import_to_run_on
from planc.report.row import Row
from planc.report.trials import Effort, Trial, rows_of
from planc.training.optimizers import Optimizer
from planc.zoo import ZooOptions, build_step

NETWORKS = {
    "resnet18": ZooOptions(batch=32, image=96),
    "resnet50": ZooOptions(batch=32, image=96, width=32),
    "gpt2": ZooOptions(batch=8, depth=4, width=256, seq=128, classes=1000),
}
"""Sizes whose state, without momentum, is the smaller part of the peak."""
SHARES = (0.6, 0.4, 0.25)
SOLVERS = ("mip", "sqrt-n", "vdnn-all", "layrub", "superneurons", "layup")
STEPS = 5

Point = tuple[str, str, float]
"""Network, solver, and share of the liveness peak."""


def measured(options: argparse.Namespace, have: set[Point]) -> Iterator[dict[str, Any]]:
    """A row for every point that is not there yet; each network is profiled anew, with copies to the RAM."""
    for network in options.networks or NETWORKS:
        shares = sorted(options.shares or SHARES)  # `mip` knows its plans of smaller budgets
        wanted = [(solver, share) for solver in options.solvers or SOLVERS for share in shares]
        missing = [(solver, share) for solver, share in wanted if (network, solver, share) not in have]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            job = _job(network, Path(folder) / f"{network}.onnx")
            for solver, share in missing:
                trial = Trial(int(job.usual.liveness_peak_bytes * share), solver)
                (row,) = rows_of(job, [trial], Effort(options.time_limit, run_steps=STEPS, remember=False))
                yield {"network": network, "solver": solver, "budget_fraction": share, **_found(row)}


def _job(network: str, path: Path) -> CompileJob:
    """Compiled from a file, as users do; its weights are read when a plan is loaded."""
    onnx.save_model(build_step(network, NETWORKS[network], Optimizer("sgd")), path)
    imported = import_to_run_on(path, "cpu")
    return CompileJob.of(imported, profile(imported, "cpu", host_tier="ram"))


def _found(row: Row) -> dict[str, Any]:
    error = row.prediction_error
    return {
        "status": row.status,
        "budget_bytes": row.budget_bytes,
        "slab_bytes": row.slab_bytes,
        "overhead": None if row.overhead is None else round(row.overhead, 4),
        "step_ns": row.measured_step_ns,
        "unplanned_ns": row.measured_unplanned_ns,
        "peak_bytes": row.measured_peak_bytes,
        "bitwise_equal": row.bitwise_equal,
        "prediction_error": None if error is None else round(error, 4),
        "needed_bytes": row.minimum_budget_bytes if row.overhead is None else None,
        "solve_s": round(row.solve_s, 2),
    }
