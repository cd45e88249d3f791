"""The models that MathOpt solves at the moment, in any thread: a process that ends awaits them.

A solve that returns while the interpreter ends would abort the process, since its thread is ended inside of C++
("terminate called without an active exception"), after all else went well.
"""

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ortools.util.python.solve_interrupter import SolveInterrupter

EXIT_S = 5.0
"""Longest wait. GLOP returns at once when it is interrupted; HiGHS cannot be, and returns at its own time limit."""


class _UnderWay:
    """Models by their interrupters."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._interrupters: list[SolveInterrupter | None] = []
        self._ended = False

    @contextmanager
    def solving(self, interrupter: SolveInterrupter | None) -> Iterator[bool]:
        """For one solve; says whether it may begin."""
        with self._changed:
            begins = not self._ended
            if begins:
                self._interrupters.append(interrupter)
        try:
            yield begins
        finally:
            if begins:
                with self._changed:
                    self._interrupters.remove(interrupter)
                    self._changed.notify_all()

    def end(self) -> None:
        """Interrupt all, and wait until they returned; no other begins."""
        with self._changed:
            self._ended = True
            for interrupter in self._interrupters:
                if interrupter is not None:
                    interrupter.interrupt()
            self._changed.wait_for(lambda: not self._interrupters, EXIT_S)


UNDER_WAY = _UnderWay()
atexit.register(UNDER_WAY.end)
