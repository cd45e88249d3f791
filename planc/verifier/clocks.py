"""Happens-before between the actions of a plan, rebuilt from engine order and waits alone."""

from dataclasses import dataclass

from planc.enums import Direction
from planc.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Clock:
    """What is surely complete when an action begins: so many runs, copies out and copies in, each counted in engine
    order."""

    runs: int = 0
    outs: int = 0
    ins: int = 0

    def join(self, other: "Clock") -> "Clock":
        """What is complete when both are known."""
        return Clock(max(self.runs, other.runs), max(self.outs, other.outs), max(self.ins, other.ins))


@dataclass(frozen=True)
class Order:
    """The clock at which every run and copy begins, and each copy's rank in its engine.

    `deadlocked` names actions that never start because they wait for each other.
    """

    runs: tuple[Clock, ...]
    copies: tuple[Clock, ...]
    rank: tuple[int, ...]
    deadlocked: tuple[str, ...]
    plan: Plan

    def copy_before_run(self, copy: int, run: int) -> bool:
        """Whether the copy is complete before the run begins."""
        return self._copy_in(copy, self.runs[run])

    def copy_before_copy(self, first: int, second: int) -> bool:
        """Whether copy `first` is complete before copy `second` begins."""
        return self._copy_in(first, self.copies[second])

    def run_before_copy(self, run: int, copy: int) -> bool:
        """Whether the run is complete before the copy begins."""
        return run < self.copies[copy].runs

    def _copy_in(self, copy: int, clock: Clock) -> bool:
        out = self.plan.copies[copy].direction is Direction.OUT
        return self.rank[copy] < (clock.outs if out else clock.ins)


def happens_before(plan: Plan) -> Order:
    """Clocks of every action, computed in any order that the waits allow.

    Indices in the plan must be in range. Actions on a cycle keep the empty clock and are named in `deadlocked`.
    """
    return _Propagation(plan).run()


class _Propagation:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.engines: tuple[list[int], list[int]] = ([], [])
        self.rank: list[int] = []
        for index, copy in enumerate(plan.copies):
            engine = self.engines[copy.direction is Direction.IN]
            self.rank.append(len(engine))
            engine.append(index)
        self.run_clock = [Clock()] * len(plan.runs)
        self.copy_clock = [Clock()] * len(plan.copies)
        self.copy_done = [False] * len(plan.copies)
        self.runs_done = 0
        self.heads = [0, 0]

    def run(self) -> Order:
        while self._advance_runs() | self._advance_copies(0) | self._advance_copies(1):
            pass
        stuck = [f"run {self.runs_done}"] if self.runs_done < len(self.plan.runs) else []
        stuck += [f"copy {i}" for i, done in enumerate(self.copy_done) if not done]
        return Order(tuple(self.run_clock), tuple(self.copy_clock), tuple(self.rank), tuple(stuck), self.plan)

    def _after_run(self, run: int) -> Clock:
        return self.run_clock[run].join(Clock(runs=run + 1))

    def _after_copy(self, copy: int) -> Clock:
        out = self.plan.copies[copy].direction is Direction.OUT
        done = self.rank[copy] + 1
        return self.copy_clock[copy].join(Clock(outs=done) if out else Clock(ins=done))

    def _advance_runs(self) -> bool:
        moved = False
        while self.runs_done < len(self.plan.runs):
            waits = self.plan.runs[self.runs_done].waits
            if not all(self.copy_done[c] for c in waits):
                break
            clock = self._after_run(self.runs_done - 1) if self.runs_done else Clock()
            for copy in waits:
                clock = clock.join(self._after_copy(copy))
            self.run_clock[self.runs_done] = clock
            self.runs_done += 1
            moved = True
        return moved

    def _advance_copies(self, engine: int) -> bool:
        moved = False
        queue = self.engines[engine]
        while self.heads[engine] < len(queue):
            index = queue[self.heads[engine]]
            copy = self.plan.copies[index]
            if copy.after > self.runs_done or not all(self.copy_done[c] for c in copy.waits):
                break
            clock = self._after_run(copy.after - 1) if copy.after else Clock()
            if self.heads[engine]:
                clock = clock.join(self._after_copy(queue[self.heads[engine] - 1]))
            for other in copy.waits:
                clock = clock.join(self._after_copy(other))
            self.copy_clock[index] = clock
            self.copy_done[index] = True
            self.heads[engine] += 1
            moved = True
        return moved
