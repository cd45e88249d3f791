"""What the halves of one solve know of each other: the best bound, the best step time, the clock, and when to end."""

import threading
from math import inf

from ortools.util.python.solve_interrupter import SolveInterrupter

from planc.clock import StoppableClock
from planc.schedule.solver import OPTIMAL_GAP, SolveOptions

PROOF_SHARE = 0.4
"""Part of the time limit that the proof may take where one worker proves first and searches then."""


class SolveState:
    """Of a solve that has no schedule below `bound_ns`, within the limits of `options`."""

    def __init__(self, bound_ns: int, options: SolveOptions) -> None:
        self.bound_ns, self.best_ns = bound_ns, inf
        self.seconds, self.patience_s = options.time_limit_s, max(options.time_limit_s, options.patience_s)
        self.gap_wanted = OPTIMAL_GAP if options.gap is None else options.gap
        self.infeasible = False
        self.proved, self.stop = threading.Event(), threading.Event()
        self.clock: StoppableClock = options.clock
        self.started = self.clock.now()
        self.interrupter = SolveInterrupter()
        """Ends a model under way, where its solver can be interrupted."""

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now() - self.started

    def left(self) -> float:
        """Seconds until the time limit."""
        return (self.seconds if self.best_ns < inf else self.patience_s) - self.elapsed()

    def proof_left(self) -> float:
        """Seconds that the proof still has: the search comes after it where work is counted, and beside it otherwise."""
        return PROOF_SHARE * self.seconds - self.elapsed() if self.clock.counted else self.left()

    def end(self) -> None:
        """Let both halves come to an end."""
        self.stop.set()
        self.interrupter.interrupt()

    def gap(self) -> float:
        """Of the best plan; infinite before the first."""
        return (self.best_ns - self.bound_ns) / self.best_ns if self.best_ns < inf else inf

    def finished(self) -> bool:
        """Whether the gap is what was wanted, the problem proved infeasible, the time over, or the solve stopped."""
        return self.gap() <= self.gap_wanted or self.infeasible or self.left() <= 0 or self.stop.is_set()
