"""Compiling is not timed, happens once, and for one kind of arguments, whatever is solved."""

import random
import threading
import time
from dataclasses import replace

import pytest
from support.problems import random_problem

from planc.clock import WALL, StoppableClock
from planc.compiled.cache import is_cached
from planc.errors import PlancError
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, solve
from planc_solvers.evaluation import evaluate, plan_copies
from planc_solvers.mip import Mip
from planc_solvers.moves import rebuild
from planc_solvers.ready import Once
from planc_solvers.search import annealing as search
from planc_solvers.search import task_order


def test_no_time_passes_while_any_thread_has_stopped_the_clock() -> None:
    clock, stopped, go_on = StoppableClock(), threading.Event(), threading.Event()

    def stop() -> None:
        with clock.stopped():
            stopped.set()
            go_on.wait()

    thread = threading.Thread(target=stop)
    thread.start()
    stopped.wait()
    with clock.stopped():
        before = clock.now()
        time.sleep(0.02)
    assert clock.now() == before
    go_on.set()
    thread.join()
    time.sleep(0.02)
    assert before + 0.02 <= clock.now() < before + 5


def test_a_function_is_made_ready_once_and_off_the_clock() -> None:
    calls: list[float] = []

    def slow() -> None:
        assert not ready.idle.is_set()
        calls.append(WALL.now())
        time.sleep(0.01)
        calls.append(WALL.now())

    ready = Once(slow)
    assert not ready.done
    assert ready.idle.is_set()
    ready()
    ready()
    assert ready.done
    assert ready.idle.is_set()
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_what_fails_is_tried_again_and_lets_the_clock_go_on() -> None:
    ready = Once(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ready()
        assert ready.idle.is_set()
    before = WALL.now()
    time.sleep(0.01)
    assert WALL.now() > before


def test_a_function_made_ready_is_found_in_the_cache() -> None:
    search.ready_search()
    assert is_cached(search.anneal)


def test_every_function_is_compiled_for_one_kind_of_arguments() -> None:
    for seed in range(4):
        problem = random_problem(seed, tasks=12)
        peak = max(memory_profile(problem, Schedule(tuple(range(12)))))
        tight = replace(problem, budget_bytes=int(peak * random.Random(seed).uniform(0.6, 0.9)))
        for workers in (1, 2):
            try:
                solve(Mip(), tight, SolveOptions(time_limit_s=0.2, workers=workers))
            except PlancError:
                continue
    outer = (evaluate.evaluate_within, rebuild.rebuild, task_order._anneal_order, search.anneal, plan_copies.copy_plan)
    found = {getattr(function, "__name__", ""): len(getattr(function, "signatures", ())) for function in outer}
    assert set(found.values()) <= {0, 1}, found
    assert found["evaluate_within"] == 1
