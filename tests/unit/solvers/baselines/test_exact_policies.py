"""Policies that are optimal in their class, against brute force over that class or the paper's closed form."""

import random
from dataclasses import replace
from itertools import pairwise
from math import comb
from typing import Any

import pytest
from ortools.math_opt.python import mathopt
from ortools.sat.python.cp_model import CpModel, CpSolver
from support.labelled import Layer, training_chain
from support.oracle import best_recompute_only
from support.problems import random_dag
from support.stage_oracle import best_by_stages

from planc.enums import Direction
from planc.errors import InfeasibleBudgetError, PolicyScopeError
from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, load_solver, solve
from planc_solvers.baselines.checkmate import rounded
from planc_solvers.baselines.offmate import Program
from planc_solvers.baselines.revolve import forward_steps, reversal
from planc_solvers.baselines.rotor import SLOTS, Table
from planc_solvers.baselines.stage_model import StageModel
from planc_solvers.baselines.stages import chain_of, needed_steps


def _tight(problem: Problem, share: float) -> Problem:
    most = max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))
    least = minimum_budget(problem)[0]
    return replace(problem, budget_bytes=least + int((most - least) * share))


def _duration(name: str, problem: Problem) -> int | None:
    try:
        return solve(load_solver(name), problem, SolveOptions(time_limit_s=30, workers=1)).timeline.step_ns
    except InfeasibleBudgetError:
        return None


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.6, 0.2])
def test_checkmate_is_optimal_among_schedules_by_stages(seed: int, share: float) -> None:
    problem = _tight(random_dag(seed, 7), share)
    assert _duration("checkmate", problem) == best_by_stages(problem)


@pytest.mark.parametrize("seed", range(4))
def test_checkmate_does_not_mind_gigabytes_and_milliseconds(seed: int) -> None:
    small = _tight(random_dag(seed, 7), 0.4)
    values = tuple(replace(v, bytes=v.bytes * 500_000_003) for v in small.values)
    tasks = [
        replace(t, working_bytes=t.working_bytes * 500_000_003, duration_ns=t.duration_ns * 10**6) for t in small.tasks
    ]
    large = Problem(tuple(tasks), values, small.budget_bytes * 500_000_003 + 10**6)
    best = best_by_stages(small)
    assert _duration("checkmate", large) == (None if best is None else best * 10**6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.6, 0.3])
def test_moccasin_is_optimal_with_two_runs_a_task(seed: int, share: float) -> None:
    problem = _tight(random_dag(seed, 6), share)
    assert _duration("moccasin", problem) == best_by_stages(problem, most_runs=2)


@pytest.mark.parametrize("seed", range(8))
def test_checkmates_rounding_computes_the_step_and_no_better_than_the_optimum(seed: int) -> None:
    problem = _tight(random_dag(seed, 8), 0.5)
    built = StageModel(problem, problem.budget_bytes).build()
    point = built.model.solve(10, relaxed=True).point
    if point is not None:
        memory_profile(problem, Schedule(tuple(needed_steps(problem, rounded(built, point)))))
    best, found = best_by_stages(problem), _duration("checkmate-lp", problem)
    assert found is None or (best is not None and found >= best)


@pytest.mark.parametrize("seed", range(5))
def test_poet_computes_no_more_than_checkmate_and_pages_instead(seed: int) -> None:
    problem = _tight(random_dag(seed, 6), 0.3)
    paged = replace(
        problem, values=tuple(replace(v, swappable=True, copy_out_ns=1, copy_in_ns=1) for v in problem.values)
    )
    schedule = solve(load_solver("poet"), paged, SolveOptions(time_limit_s=30, workers=1)).schedule
    # Copies cost next to nothing to POET: where each task alone fits, nothing is computed twice.
    assert sorted(schedule.steps) == list(range(6))
    assert {c.direction for c in schedule.copies} <= set(Direction)
    alone = replace(problem, values=tuple(replace(v, swappable=False) for v in problem.values))
    assert _duration("poet", alone) == best_by_stages(problem)


@pytest.mark.parametrize("name", ["checkmate", "poet", "checkmate-lp"])
def test_exact_policies_refuse_what_is_too_large(name: str) -> None:
    problem = _tight(random_dag(0, 700), 0.5)
    with pytest.raises(
        PolicyScopeError, match=rf"{name} is exact and its model grows with the square of the tasks: 700"
    ):
        load_solver(name).solve(problem, SolveOptions(time_limit_s=1))


def test_moccasin_refuses_what_is_too_large() -> None:
    with pytest.raises(PolicyScopeError, match="moccasin is exact: 1600 tasks"):
        load_solver("moccasin").solve(_tight(random_dag(0, 1600), 0.5), SolveOptions(time_limit_s=1))


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 5])
def test_revolve_takes_the_steps_of_griewank_and_walthers_formula(checkpoints: int) -> None:
    # With s snapshots, the input's among them, l steps take t(l, s) = r l - C(s + r, r - 1) advances, where
    # C(s + r - 1, s) < l <= C(s + r, s); ours counts the l steps before the reversals too.
    snapshots = checkpoints + 1
    for stages in range(2, 40):
        r = next(r for r in range(100) if comb(snapshots + r, snapshots) >= stages)
        assert forward_steps(stages, checkpoints) == r * stages - comb(snapshots + r, r - 1) + stages


def test_revolve_reverses_every_stage_with_no_more_checkpoints_than_it_has() -> None:
    for stages in (1, 2, 5, 12):
        for checkpoints in range(4):
            actions = list(reversal(0, stages - 1, checkpoints))
            assert [s for kind, s in actions if kind == "backward"] == list(range(stages - 1, -1, -1))
            assert sum(kind == "forward" for kind, _ in actions) == forward_steps(stages, checkpoints)
            runs = [s for kind, s in actions if kind == "forward"]
            restarts = {b for a, b in pairwise(runs) if b != a + 1}
            assert all(0 <= s < stages for s in restarts)


def _random_chain(seed: int, stages: int) -> Problem:
    rng = random.Random(seed)
    layers = [Layer("conv", rng.randint(1, 8), rng.randint(1, 20), "both") for _ in range(stages)]
    return training_chain(layers)


@pytest.mark.parametrize("seed", range(6))
def test_rotor_is_no_slower_than_other_ways_to_checkpoint_a_chain_and_no_faster_than_the_optimum(seed: int) -> None:
    problem = _random_chain(seed, 9)
    for share in (0.8, 0.5, 0.25, 0.1):
        tight = _tight(problem, share)
        found = _duration("rotor", tight)
        for name in ("revolve", "sqrt-n"):
            other = _duration(name, tight)
            assert other is None or (found is not None and found <= other)
    small = _tight(_random_chain(seed, 4), 0.5)
    best, found = best_recompute_only(small), _duration("rotor", small)
    assert found is None or (best is not None and found >= best)


def test_a_chain_is_cut_where_least_passes_and_its_backward_pass_follows_the_layers() -> None:
    chain = training_chain([Layer("conv", size, 5) for size in (9, 9, 1, 9, 9, 9, 1, 9)])
    found = chain_of(chain, most=3)
    assert [stage.tasks for stage in found.stages] == [(0, 1, 2), (3, 4, 5, 6), (7,)]
    assert [stage.output for stage in found.stages] == [1, 1, 0]
    assert found.backward == ((13, 14, 15), (9, 10, 11, 12), (8,))
    assert found.stages[0].saved == 9 + 9 + 1


def test_rotors_table_is_the_recurrence_of_the_paper() -> None:
    problem = _random_chain(3, 5)
    table = Table.of(chain_of(problem))
    stages = chain_of(problem).stages
    assert table.unit == 1

    def cost(s: int, t: int, m: int) -> float:
        best = float("inf")
        if m >= max(stages[t].gradient + stages[s].saving_peak, stages[s].backward_peak):
            rest = cost(s + 1, t, m - stages[s].saved) if t > s else 0
            best = stages[s].forward_ns + rest + stages[s].backward_ns
        for cut in range(s + 1, t + 1):
            passing = [stages[j].passing_peak + (stages[j - 1].output if j > s else 0) for j in range(s, cut)]
            if m >= stages[t].gradient + max(passing):
                ahead = sum(stage.forward_ns for stage in stages[s:cut])
                best = min(best, ahead + cost(cut, t, m - stages[cut - 1].output) + cost(s, cut - 1, m))
        return best

    for memory in range(0, SLOTS + 1, 7):
        assert table.time[0, len(stages) - 1][memory] == cost(0, len(stages) - 1, memory)


def test_peaks_of_a_stage_are_those_of_its_passes_alone() -> None:
    # y0 and y1 in the first stage; layer 1's backward pass reads y0, y1 and g2, and makes g1.
    chain = training_chain([Layer("conv", 7, 1, "both"), Layer("conv", 5, 1, "both"), Layer("conv", 3, 1, "both")])
    first, second = chain_of(chain, most=2).stages
    assert (first.tasks, first.output, first.saved, first.gradient) == ((0, 1), 5, 12, 5)
    assert first.passing_peak == first.saving_peak == 7 + 5
    assert first.backward_peak == 7 + 5 + 5 + 7  # y0, y1, g2 and g1
    assert (second.gradient, second.backward_peak) == (0, 3 + 5)


def _swap_or_recompute(copy_ns: int) -> Problem:
    layers = [Layer("conv", 100, 30), *[Layer("conv", 1, 100, "nothing")] * 6, Layer("conv", 1, 10)]
    chain = training_chain([Layer("pool", 100, 5), *layers], copy_ns=copy_ns)
    hungry = replace(chain.tasks[9], working_bytes=400)
    chain = replace(chain, tasks=(*chain.tasks[:9], hungry, *chain.tasks[10:]))
    return replace(chain, budget_bytes=max(memory_profile(chain, Schedule(tuple(range(18))))) - 60)


@pytest.mark.parametrize(("copy_ns", "swaps"), [(1, True), (1000, False)])
def test_offmate_swaps_over_a_fast_link_and_recomputes_over_a_slow_one(copy_ns: int, swaps: bool) -> None:
    problem = _swap_or_recompute(copy_ns)
    schedule = solve(load_solver("offmate"), problem, SolveOptions()).schedule
    assert bool(schedule.copies) == swaps
    assert (len(schedule.steps) > 18) != swaps


def test_offmates_program_hides_copies_behind_steps() -> None:
    problem = _swap_or_recompute(1)
    program = Program(problem).build()
    program.limit(problem.budget_bytes)
    answer = program.model.solve(10, relaxed=True, staged=True)
    assert answer.objective == pytest.approx(problem.base_duration_ns * 1e-3)


def test_offmate_moves_state_around_the_end_of_a_step() -> None:
    from planc.problem.problem import Origin

    weight = Value("w", 100, Origin.STATE, True, 10, 10)
    values = (weight, *(Value(f"v{i}", 1) for i in range(3)))
    tasks = (
        Task("early", 500, (), (1,), 100, True, phase="forward"),
        Task("use", 500, (0, 1), (2,), 1, True, phase="forward"),
        Task("update", 500, (0, 2), (0, 3), 1, phase="backward"),
    )
    schedule = solve(load_solver("offmate"), Problem(tasks, values, 150), SolveOptions()).schedule
    assert schedule.host_start == {0}
    assert [(c.direction, c.stop) for c in schedule.copies] == [(Direction.OUT, 3), (Direction.IN, 1)]


@pytest.mark.parametrize("name", ["checkmate", "checkmate-lp", "moccasin", "offmate", "poet"])
def test_where_work_is_counted_no_limit_is_of_the_wall(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that depends on how fast the machine is would be another one on every run. A wall far behind the counted
    limit only ends what counts nothing."""
    limits: list[object] = []
    by_highs, by_cp_sat = mathopt.solve, CpSolver.Solve

    def recorded(model: mathopt.Model, solver: mathopt.SolverType, **options: Any) -> mathopt.SolveResult:
        limits.append(options["params"].time_limit)
        return by_highs(model, solver, **options)

    def recorded_too(self: CpSolver, model: CpModel) -> Any:
        near = self.parameters.max_time_in_seconds < 20 * self.parameters.max_deterministic_time
        limits.append(self.parameters.max_time_in_seconds if near else None)
        return by_cp_sat(self, model)

    monkeypatch.setattr(mathopt, "solve", recorded)
    monkeypatch.setattr(CpSolver, "Solve", recorded_too)
    problem = _tight(training_chain([Layer("conv", 9 - k % 4, 3 + k) for k in range(8)]), 0.6)
    first, second = (solve(load_solver(name), problem, SolveOptions(time_limit_s=1, workers=1)) for _ in range(2))
    assert limits
    assert set(limits) == {None}
    assert first.schedule == second.schedule
