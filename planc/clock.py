"""Time as the planner counts it: by the clock, or by the work done, which is the same on every machine and every day."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StoppableClock:
    """Seconds of wall time, but for those while it is stopped, by however many threads."""

    counted = False
    """Whether only work counts, so that nothing may depend on how long it takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops, self._since, self._lost = 0, 0.0, 0.0

    def now(self) -> float:
        """Seconds since some moment in the past."""
        with self._lock:
            return (self._since if self._stops else time.monotonic()) - self._lost

    def spend(self, seconds: float) -> None:
        """Tell of work that takes some `seconds` on an ordinary machine; wall time passes by itself."""

    def skip(self, seconds: float) -> None:
        """Let that much time pass at once, for everyone: limits set before end, those set from now on do not."""
        with self._lock:
            self._lost -= seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let no time pass for anyone: what is done within counts for no time limit."""
        with self._lock:
            if self._stops == 0:
                self._since = time.monotonic()
            self._stops += 1
        try:
            yield
        finally:
            with self._lock:
                self._stops -= 1
                if self._stops == 0:
                    self._lost += time.monotonic() - self._since


class WorkClock(StoppableClock):
    """Seconds of work told of by `spend`: limits by this clock are kept at the same point on every run.

    Estimates are generous, so that a run takes less wall time than it counts; for one thread.
    """

    counted = True

    def __init__(self) -> None:
        super().__init__()
        self._worked = 0.0

    def now(self) -> float:
        """Seconds of work so far."""
        return self._worked

    def spend(self, seconds: float) -> None:
        """Let that much time pass."""
        self._worked += seconds


WALL = StoppableClock()
"""By which all limits of this process are kept unless work is counted."""


_UNCOUNTED = 20
"""Seconds for each counted one after which a solve ends anyway: CP-SAT counts little of what it does before its search,
which takes minutes for models of a thousand tasks."""


def limit_cp_sat(parameters: Any, seconds: float, counted: bool, workers: int) -> None:
    """Limit a CP-SAT solver, by its `parameters`: to seconds of the wall by so many workers, or to work that it counts,
    about as much as seconds, by one."""
    if counted:
        parameters.max_deterministic_time, parameters.num_workers = seconds, 1
        parameters.max_time_in_seconds = _UNCOUNTED * seconds
    else:
        parameters.max_time_in_seconds, parameters.num_workers = seconds, workers
