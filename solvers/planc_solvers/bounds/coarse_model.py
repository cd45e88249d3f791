"""A lower bound on every schedule: Checkmate with swap, its memory rows kept at a few critical tasks only.

Checkmate (Jain et al., MLSys 2020) decides residency and recomputation at every task; here a few critical tasks cut the
step into `stages`. Whatever the choice of critical tasks, every schedule whose first executions follow the given order
maps to a point of the model, so its optimum is a bound. The decisions are named in `variables`; each family of rows is a
function of its own (`value_rows`, `repeat_rows`, `memory_rows`, `time_rows`), its inequality written above its code.

Memory rows are scaled by the budget and time by the base duration.
"""

from dataclasses import replace

from planc.problem.problem import Problem
from planc_solvers.bounds.linear_model import LinearModel
from planc_solvers.bounds.memory_rows import add_form_variables, add_host_row, add_memory_rows
from planc_solvers.bounds.relaxation import Coarse
from planc_solvers.bounds.repeat_rows import add_input_rows, add_pair_rows
from planc_solvers.bounds.stages import stages_of
from planc_solvers.bounds.time_rows import add_time_rows
from planc_solvers.bounds.value_rows import add_value_rows
from planc_solvers.bounds.variables import variables_of


def coarse_model(problem: Problem, critical: tuple[int, ...]) -> Coarse:
    """The model of `problem` with memory rows at the tasks `critical` (increasing, at least one)."""
    stages, model = stages_of(problem, critical), LinearModel()
    c = Coarse(stages, variables_of(stages, model), model)
    for value in range(len(problem.values)):
        add_value_rows(c, value)
    add_input_rows(c)
    add_pair_rows(c)
    add_form_variables(c)
    c = replace(c, memory_rows=add_memory_rows(c))
    c = replace(c, host_rows=add_host_row(c))
    time, copy_rows = add_time_rows(c)
    return replace(c, time=time, copy_rows=copy_rows)
