"""Forms as decisions of the solver: evaluation, bounds and optima against references and brute force."""

import random
from dataclasses import replace

import pytest
from support.optimum import check_recomputation_optimum
from support.oracle import best_recompute_only, best_with_swaps
from support.problems import random_dag, random_problem, small_swap_problem, with_alternatives

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.simulate import simulate
from planc_solvers.bounds.coarse_model import coarse_model
from planc_solvers.evaluation.arrays import arrays_of, empty_plan
from planc_solvers.evaluation.evaluate import evaluate
from planc_solvers.evaluation.schedule_conversion import schedule_of
from planc_solvers.evaluation.workspace import EXCESS, MAKESPAN, workspace
from planc_solvers.moves.form_choices import settle


def _tight(problem: Problem, seed: int) -> Problem:
    peak = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least, _ = minimum_budget(problem)
    return replace(problem, budget_bytes=random.Random(seed).randint(least, max(least, peak - 1)))


def _bounds(problem: Problem, seed: int) -> list[float]:
    rng, tasks = random.Random(seed), len(problem.tasks)
    chosen = [tuple(sorted(rng.sample(range(1, tasks), rng.randint(1, min(3, tasks - 1))))) for _ in range(4)]
    return [coarse_model(problem, c).model.solve(10).bound * problem.base_duration_ns for c in chosen]


@pytest.mark.parametrize("seed", range(15))
def test_evaluation_of_choices_equals_the_reference(seed: int) -> None:
    rng = random.Random(seed)
    problem = with_alternatives(random_problem(seed, boundary_ns=rng.choice([0, 3])), seed)
    arrays = arrays_of(problem)
    for fetched in (0, 1) * 5:
        plan, place = empty_plan(arrays), workspace(arrays)
        plan.choice[: len(problem.tasks)] = [rng.randrange(len(task.forms)) for task in problem.tasks]
        plan.fetch[: len(problem.tasks), 0] = [
            fetched * (rng.getrandbits(8) & rng.getrandbits(8)) for _ in problem.tasks
        ]
        assert evaluate(arrays, plan, place)
        schedule = schedule_of(problem, plan, place)
        if not fetched:
            assert memory_profile(problem, schedule) == place.memory[: len(problem.tasks)].tolist()
        assert simulate(problem, schedule).step_ns == pytest.approx(place.total[MAKESPAN], abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_settled_forms_are_the_fastest_that_fit(seed: int) -> None:
    problem = _tight(with_alternatives(random_dag(seed), seed), seed)
    arrays = arrays_of(problem)
    plan, place = empty_plan(arrays), workspace(arrays)
    evaluate(arrays, plan, place)
    settle(arrays, plan, place)
    evaluate(arrays, plan, place)
    profile = memory_profile(problem, Schedule(tuple(range(len(problem.tasks)))))
    for task, choice in enumerate(plan.choice[: len(problem.tasks)]):
        forms = problem.tasks[task].forms
        room = problem.budget_bytes - profile[task] + forms[0].working_bytes
        fitting = [form.duration_ns for form in forms if form.working_bytes <= room]
        least = min(form.working_bytes for form in forms)
        assert forms[choice].duration_ns == min(fitting) if fitting else forms[choice].working_bytes == least
    assert (place.total[EXCESS] > 0) == any(
        profile[t] - task.working_bytes + min(f.working_bytes for f in task.forms) > problem.budget_bytes
        for t, task in enumerate(problem.tasks)
    )


@pytest.mark.parametrize("seed", range(40))
def test_no_bound_exceeds_the_optimum_of_recomputation_and_forms(seed: int) -> None:
    problem = _tight(with_alternatives(random_dag(seed, 6), seed), seed)
    best = best_recompute_only(problem)
    if best is not None:
        assert max(_bounds(problem, seed)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_no_bound_exceeds_the_optimum_with_swaps_and_forms(seed: int) -> None:
    problem = _tight(with_alternatives(small_swap_problem(seed), seed, 0.3), seed)
    best = best_with_swaps(problem, repeats=0)
    repeated = [replace(task, recomputable=False) for task in problem.tasks]
    problem = replace(problem, tasks=tuple(repeated))
    if best is not None:
        assert max(_bounds(problem, seed)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(25))
def test_recomputation_and_forms_are_solved_to_the_optimum(seed: int) -> None:
    problem = _tight(with_alternatives(random_dag(seed, 6), seed), seed)
    check_recomputation_optimum(problem)
