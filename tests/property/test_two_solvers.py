"""The optimum and the bound that HiGHS finds are those of CP-SAT, and no schedule is better."""

from dataclasses import replace

import pytest
from support.second_solver import in_whole_numbers, optimum_by_cp_sat
from support.solved_twice import budgeted, solved_twice

from planc_solvers.bounds.coarse_model import coarse_model


@pytest.mark.parametrize("seed", range(24))
def test_two_solvers_and_brute_force_agree(seed: int) -> None:
    assert solved_twice(budgeted(seed), seed).fault() is None


def test_a_wrong_row_is_noticed() -> None:
    """A model that lost a row has another optimum: what the comparison says depends on the rows."""
    problem = budgeted(4)
    whole = in_whole_numbers(coarse_model(problem, tuple(range(len(problem.tasks)))))
    right = optimum_by_cp_sat(whole)
    assert right is not None
    heavier = replace(whole.model, row_lower=[low + 1 if low > 0 else low for low in whole.model.row_lower])
    found = optimum_by_cp_sat(replace(whole, model=heavier))
    assert found is None or found > right
