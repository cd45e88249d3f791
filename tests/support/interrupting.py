"""Policies that are interrupted while they solve, as by Ctrl-C in a terminal."""

import signal
import time

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, Progress, SolveOptions

_GIVE_UP_S = 30.0


class Searching:
    """Tells of progress, is interrupted `times`, and searches on until its time limit has passed."""

    times = 1
    tells = True

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        ends, gives_up = options.clock.now() + options.time_limit_s, time.monotonic() + _GIVE_UP_S
        if self.tells:
            options.on_progress(Progress(0.0, None, None))
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
        while options.clock.now() < ends:
            assert time.monotonic() < gives_up, "the interrupt did not end the time limit"
            time.sleep(0.01)
        return Candidate(Schedule(tuple(range(len(problem.tasks)))), problem.least_duration_ns, "every schedule")


class Twice(Searching):
    """Interrupted again at once."""

    times = 2


class Silent(Searching):
    """Interrupted before it has told of any progress."""

    tells = False


class Patient(Searching):
    """Interrupted once while it has much time."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:
        self.times = int(options.time_limit_s > _GIVE_UP_S)
        return super().solve(problem, options)
