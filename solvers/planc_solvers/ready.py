"""Compiled functions made ready when they are first needed, on a clock that stands still meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from planc.problem.problem import Problem, Task, Value

TINY = Problem((Task("task", 1, (), (0,), 2),), (Value("value", 2),), 1)
"""A problem over its budget, to call functions with."""


class StoppableClock:
    """Seconds, but for those while it is stopped, by however many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops, self._since, self._lost = 0, 0.0, 0.0

    def now(self) -> float:
        """Seconds since some moment in the past."""
        with self._lock:
            return (self._since if self._stops else time.monotonic()) - self._lost

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


CLOCK = StoppableClock()
"""By which all solves of this process keep their time limits."""


class Once:
    """A function that compiles others by calling them, or loads them; called again, it does nothing."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.done = function, False
        self.idle = threading.Event()
        """Set but while it compiles: what takes the processor from it may wait."""
        self.idle.set()

    def __call__(self) -> None:
        """Compile, where that has not happened yet, while the clock stands still."""
        if self.done:
            return
        self.idle.clear()
        try:
            with CLOCK.stopped():
                self.function()
        finally:
            self.idle.set()
        self.done = True
