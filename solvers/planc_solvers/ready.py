"""Compiled functions made ready when they are first needed, while the clock stands still."""

import threading
from collections.abc import Callable

from planc.clock import WALL
from planc.problem.problem import Problem, Task, Value

TINY = Problem((Task("task", 1, (), (0,), 2),), (Value("value", 2),), 1)
"""A problem over its budget, to call functions with."""


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
            with WALL.stopped():
                self.function()
        finally:
            self.idle.set()
        self.done = True
