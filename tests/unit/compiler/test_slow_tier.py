"""A file on a disk that is too slow to help is refused with the reason, and nothing is swapped to it."""

import warnings
from dataclasses import replace

import msgspec
import pytest
from support import networks
from support.costs import made_up_costs

from planc.compiler.budget import arena_bytes_of
from planc.compiler.job import CompileJob
from planc.compiler.options import CompileOptions
from planc.costs.table import CostTable
from planc.enums import HostTierKind
from planc.errors import InfeasibleBudgetError, PlancWarning, SolverTimeoutError
from planc.importer.import_model import ImportedModel
from planc.problem.bounds import minimum_budget


def _case(bandwidth: float, tier: HostTierKind = HostTierKind.FILE) -> tuple[ImportedModel, CostTable]:
    imported = networks.cnn()
    costs = made_up_costs(imported.graph, scratch=1 << 10, bandwidth=int(bandwidth))
    return imported, msgspec.structs.replace(costs, link=msgspec.structs.replace(costs.link, tier=tier))


def _needs_a_swap(job: CompileJob) -> CompileOptions:
    """A budget that only swapping meets."""
    least = minimum_budget(job.usual.problem)[0] + arena_bytes_of(job.usual)
    return CompileOptions(str(least + (job.usual.liveness_peak_bytes - least) // 2), time_limit_s=1.0)


def test_a_slow_disk_is_refused_in_words_and_not_used() -> None:
    with pytest.warns(
        PlancWarning, match=r"nothing is swapped: .*less than 1 % of the peak of .*--host-tier file:FOLDER"
    ):
        job = CompileJob.of(*_case(1e5))
    with pytest.raises((InfeasibleBudgetError, SolverTimeoutError), match="host memory"):
        job.compile(_needs_a_swap(job))
    with pytest.raises(
        (InfeasibleBudgetError, SolverTimeoutError), match="host memory"
    ):  # allowed room is no disk's rate
        job.compile(replace(_needs_a_swap(job), host_memory="1GiB"))


@pytest.mark.parametrize("case", [_case(1e9), _case(1e5, HostTierKind.RAM)], ids=["fast disk", "memory"])
def test_others_are_used(case: tuple[ImportedModel, CostTable]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlancWarning)
        job = CompileJob.of(*case)
    assert job.compile(_needs_a_swap(job)).plan.copies


def test_the_limit_is_what_moves_while_a_step_computes() -> None:
    job = CompileJob.of(*_case(1e9))
    rate = job.usual.liveness_peak_bytes / 100 / (job.usual.problem.least_duration_ns / 1e9)
    with pytest.warns(PlancWarning, match="nothing is swapped"):
        CompileJob.of(*_case(0.98 * rate))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlancWarning)
        CompileJob.of(*_case(1.05 * rate))
