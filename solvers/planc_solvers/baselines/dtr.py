"""dtr: evict when memory runs out, compute again when it is missed (Kirisame et al., 2021).

Kirisame, Lyubomirsky, Haan, Brennan, He, Roesch, Chen and Tatlock, Dynamic Tensor Rematerialization, ICLR 2021: online,
greedy, without knowledge of what comes. Where a step finds no room, the resident value with the least h = (cost + cost
of its evicted neighbourhood) / (bytes · staleness) goes; a missing input is computed again, with what that needs in
turn. Neighbourhoods are kept as classes of connected evicted values (h_DTR_eq, with the paper's approximation that a
class does not split again). A value whose last original reader has run is evicted at once, as the framework would free
it. What cannot be computed again (random results, what is made from state that was updated since) stays for as long as
anything made from it may have to be.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Origin, Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc.units import format_bytes
from planc_solvers.baselines.replay import last_needs
from planc_solvers.baselines.selection import first_fitting

MOST_REPEATS = 8
"""Executions per task on average beyond which it thrashes: the step would take several times as long, and gets no
end."""


class Dtr:
    """Online eviction; the schedule is what its run at the given budget did."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when a step finds nothing to evict, or when it thrashes."""
        return first_fitting("dtr", problem, [Schedule(_Run(problem).run())])


@dataclass
class _Classes:
    """Connected evicted values with the sum of their costs; a value that is made again leaves its class."""

    member: dict[int, int] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=list)
    cost: list[int] = field(default_factory=list)

    def root(self, value: int) -> int | None:
        """The class of an evicted value; None for others."""
        node = self.member.get(value)
        while node is not None and self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def roots(self, values: Iterable[int]) -> set[int]:
        """The distinct classes of some values."""
        return {root for value in values if (root := self.root(value)) is not None}

    def join(self, value: int, cost: int, neighbours: Iterable[int]) -> None:
        """Let an evicted value join the classes of its neighbours into one."""
        node = len(self._parent)
        self._parent.append(node)
        self.cost.append(cost)
        for root in self.roots(neighbours):
            self._parent[root] = node
            self.cost[node] += self.cost[root]
        self.member[value] = node

    def leave(self, value: int, cost: int) -> None:
        """Take out a value that is on the device again."""
        root = self.root(value)
        if root is not None:
            self.cost[root] = max(0, self.cost[root] - cost)
            del self.member[value]


class _Run:
    """One run of the training step within the budget."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.classes = problem, _Classes()
        computed = [v for v, info in enumerate(problem.values) if info.origin is Origin.COMPUTED]
        self.evictable, needed = last_needs(problem, computed, 0, len(problem.tasks))
        self.fixed = set(range(len(problem.values))) - set(computed)
        self.bytes = sum(problem.values[v].bytes for v in self.fixed)
        self.held: set[int] = set()
        self.touched = [0] * len(problem.values)
        self.steps: list[int] = []
        self.clock, self.executed = 0, -1
        self.released: list[list[int]] = [[] for _ in problem.tasks]
        for value, info in enumerate(problem.values):
            if info.origin is Origin.BATCH:
                self.released[max(problem.readers[value], default=0)].append(value)
        for value in computed:
            if not problem.values[value].needed_after_step:
                readers = problem.readers[value]
                last = max(readers, default=-1) if value in self.evictable else needed[value]
                self.released[max(last, self._producer(value))].append(value)

    def _producer(self, value: int) -> int:
        return self.problem.producer[value] or 0

    def _duration(self, value: int) -> int:
        return self.problem.tasks[self._producer(value)].duration_ns

    def run(self) -> tuple[int, ...]:
        """The steps. Raises InfeasibleBudgetError."""
        for task in range(len(self.problem.tasks)):
            self._make(task)
            self.executed = task
            for value in self.released[task]:
                if value in self.held or value in self.fixed:
                    self._evict(value)
        return tuple(self.steps)

    def _make(self, task: int) -> None:
        """Execute `task` behind what makes its missing inputs; inputs of all that is under way are pinned."""
        stack = [task]
        while stack:
            accesses = self.problem.accesses
            missing = [v for v in accesses[stack[-1]] if v not in self.held and v not in self.fixed]
            if missing:
                stack.append(self._producer(missing[0]))
                continue
            self._execute(stack[-1], {v for under_way in stack for v in accesses[under_way]})
            stack.pop()

    def _execute(self, task: int, pinned: set[int]) -> None:
        info = self.problem.tasks[task]
        while self.bytes + info.working_bytes > self.problem.budget_bytes:
            victim = self._victim(pinned | set(info.writes))
            if victim is None:
                raise self._stuck(task, "finds nothing to evict")
            self._evict(victim)
        self.steps.append(task)
        if len(self.steps) > MOST_REPEATS * len(self.problem.tasks):
            raise self._stuck(task, "thrashes")
        self.clock += info.duration_ns
        for value in info.writes:
            if value not in self.fixed and value not in self.held:
                self.held.add(value)
                self.bytes += self.problem.values[value].bytes
                self.classes.leave(value, info.duration_ns)
        for value in (*info.reads, *info.writes):
            self.touched[value] = self.clock

    def _victim(self, pinned: set[int]) -> int | None:
        """The value of the least h among those that may go."""
        best, found = float("inf"), None
        for value in self.held & self.evictable:
            size = self.problem.values[value].bytes
            if value in pinned or not size:
                continue
            cost = self._duration(value) + sum(self.classes.cost[r] for r in self.classes.roots(self._near(value)))
            score = cost / (size * (self.clock - self.touched[value] + 1))
            if score < best or (score == best and found is not None and value < found):
                best, found = score, value
        return found

    def _near(self, value: int) -> list[int]:
        """What the value is made from, and what has been made from it."""
        made = [w for t in self.problem.readers[value] if t <= self.executed for w in self.problem.tasks[t].writes]
        return [*self.problem.tasks[self._producer(value)].reads, *made]

    def _evict(self, value: int) -> None:
        if value in self.evictable:
            self.classes.join(value, self._duration(value), self._near(value))
        self.held.discard(value)
        self.bytes -= self.problem.values[value].bytes

    def _stuck(self, task: int, how: str) -> InfeasibleBudgetError:
        name, budget = self.problem.tasks[task].name, self.problem.budget_bytes
        text = f"dtr {how} at layer {name!r} within {format_bytes(budget)}; raise the budget or choose the solver 'mip'"
        return InfeasibleBudgetError(text, max(budget + 1, self.problem.entry_bytes(task)), name, budget)
