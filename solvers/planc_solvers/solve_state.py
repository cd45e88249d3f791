"""What the halves of one solve know of each other: the best bound, the best step time, the clock, and when to end."""

import threading
from math import inf

from planc.schedule.solver import OPTIMAL_GAP
from planc_solvers.ready import CLOCK

PROOF_SHARE = 0.4
"""Part of the time limit that the proof may take where one worker proves first and searches then."""


class SolveState:
    """Of a solve that has no schedule below `bound_ns`, and so many seconds, or `patience_s` while it has none at all."""

    def __init__(self, bound_ns: int, seconds: float, patience_s: float) -> None:
        self.bound_ns, self.best_ns, self.patience_s = bound_ns, inf, max(seconds, patience_s)
        self.infeasible = False
        self.proved, self.stop = threading.Event(), threading.Event()
        self.seconds, self.started = seconds, CLOCK.now()

    def begin(self) -> None:
        """Let the time limit begin now."""
        self.started = CLOCK.now()

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return CLOCK.now() - self.started

    def left(self) -> float:
        """Seconds until the time limit."""
        return (self.seconds if self.best_ns < inf else self.patience_s) - self.elapsed()

    def gap(self) -> float:
        """Of the best plan; infinite before the first."""
        return (self.best_ns - self.bound_ns) / self.best_ns if self.best_ns < inf else inf

    def finished(self) -> bool:
        """Whether the gap is closed, the problem proved infeasible, the time over, or the solve stopped."""
        return self.gap() <= OPTIMAL_GAP or self.infeasible or self.left() <= 0 or self.stop.is_set()
