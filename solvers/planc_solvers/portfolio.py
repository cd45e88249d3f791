"""The two halves of the planner side by side: bounds in one thread, plans in the other, under one time limit."""

import threading
import time
from collections import deque
from math import inf

from planc.problem.bounds import minimum_budget
from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import OPTIMAL_GAP, Progress, SolveOptions
from planc.units import format_bytes
from planc_solvers.arrays import Plan, arrays_of, empty_plan
from planc_solvers.build import schedule_of
from planc_solvers.decode import give_up_all
from planc_solvers.evaluate import evaluate
from planc_solvers.prover import Prover
from planc_solvers.search import BEST, PRICE, anneal, annealing, copy_plan, start
from planc_solvers.workspace import EXCESS, MAKESPAN, workspace

CHUNK_S = 0.2
"""Time between two looks at the clock and at the other half."""

CYCLES = 3
"""Annealing cycles of one solve; each ends cold and the next restarts from the best plan."""

HOT, COLD, COOLER = 3e-3, 2e-6, 0.4
"""Annealing temperatures relative to the base duration; each cycle starts that much cooler than the one before."""


class Portfolio:
    """One solve of one problem."""

    def __init__(self, problem: Problem, options: SolveOptions) -> None:
        self.problem, self.options = problem, options
        self.arrays = arrays_of(problem)
        self.base = max(problem.base_duration_ns, 1)
        self.started = time.monotonic()
        self.bound_ns = problem.base_duration_ns
        self.infeasible = False
        self.proposals: deque[Plan] = deque()
        self.scratch = workspace(self.arrays)
        self.search = annealing(self.arrays)
        self.search.state[BEST] = inf
        self.swaps = any(v.swappable for v in problem.values)
        self.lock = threading.Lock()
        self.stop = threading.Event()

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule so far; None before the first."""
        if self.search.state[BEST] == inf:
            return None
        evaluate(self.arrays, self.search.best, self.scratch)
        return schedule_of(self.problem, self.search.best, self.scratch)

    def left(self) -> float:
        """Seconds until the time limit."""
        return self.options.time_limit_s - (time.monotonic() - self.started)

    def finished(self) -> bool:
        """Whether the gap is closed, the problem proved infeasible, or the time over."""
        best = self.search.state[BEST]
        closed = best < inf and best - self.bound_ns <= OPTIMAL_GAP * best
        return closed or self.infeasible or self.left() <= 0 or self.stop.is_set()

    def run(self) -> None:
        """Search until finished."""
        thread = threading.Thread(target=self.prove, daemon=True)
        self.seed_plans()
        thread.start()
        if self.options.workers == 1:
            thread.join()
        self.improve()
        self.stop.set()
        thread.join(timeout=CHUNK_S)

    def seed_plans(self) -> None:
        """Propose the simple policies."""
        self.proposals.append(empty_plan(self.arrays))
        if self.swaps:
            self.proposals.append(give_up_all(self.problem, self.arrays, lambda _: True))

    def prove(self) -> None:
        """Raise the bound and propose plans until finished."""
        prover = Prover(self.problem, self.arrays, self.left, self.finished)
        for bound, plans in prover.rounds():
            self.bound_ns = max(self.bound_ns, bound)
            self.proposals.extend(plans)
            if self.finished():
                break
        self.infeasible = prover.infeasible

    def improve(self) -> None:
        """Plans: anneal in cycles, taking up proposals at the start of each and restarting from the best."""
        price = self.base * 0.02 / (max(self.arrays.budget, 1) * 0.01 * max(1.0, len(self.problem.tasks) / 50))
        self._adopt(price)
        chunk, rate, seed = 200, 0.0, self.options.seed
        total = self.left()
        while not self.finished():
            done = 1 - self.left() / max(total, 1e-9)
            cycle, phase = divmod(done * CYCLES, 1.0)
            hot = self.base * HOT * COOLER**cycle
            hot *= (self.base * COLD / hot) ** phase
            began = time.monotonic()
            anneal(self.arrays, self.search, self.swaps, chunk, hot, hot * 0.9, seed % (1 << 32))
            seed += 1
            rate = chunk / max(time.monotonic() - began, 1e-6)
            chunk = max(10, int(rate * min(CHUNK_S, max(self.left(), 0.01))))
            new = 1 - self.left() / max(total, 1e-9)
            if self.proposals or int(new * CYCLES) > int(done * CYCLES):
                self._adopt(self.search.state[PRICE])
            best = self.search.state[BEST]
            self.options.on_progress(
                Progress(time.monotonic() - self.started, None if best == inf else int(best), self.bound_ns)
            )

    def _adopt(self, price: float) -> None:
        """Resume from the best of the proposals and the best plan."""
        candidates = [self.search.best] if self.search.state[BEST] < inf else []
        while self.proposals:
            candidates.append(self.proposals.popleft())
        scored = []
        for i, plan in enumerate(candidates):
            if evaluate(self.arrays, plan, self.scratch):
                total = self.scratch.total
                scored.append((total[EXCESS] > 0, total[MAKESPAN] + price * total[EXCESS], i))
                if total[EXCESS] <= 0 and total[MAKESPAN] < self.search.state[BEST]:
                    self.search.state[BEST] = total[MAKESPAN]
                    copy_plan(plan, self.search.best)
        if scored:
            start(self.arrays, self.search, candidates[min(scored, key=lambda s: s[1])[2]], price)

    def certificate(self) -> tuple[str, int, str]:
        """Message, smallest budget and layer of an infeasibility proof."""
        need, name = minimum_budget(self.problem)
        message = (
            f"no schedule fits {format_bytes(self.problem.budget_bytes)}: recomputation alone cannot go that low "
            f"(layer {name!r} alone needs {format_bytes(need)}); allow swapping or raise the budget"
        )
        return message, need, name
