"""rotor: the optimal persistent schedule of a chain whose stages differ (Beaumont et al., 2019).

Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, Optimal checkpointing for heterogeneous chains: how to train deep
neural networks with limited memory, INRIA RR-9302, 2019; ACM TOMS 2024. With the input of stage s there and m bytes
beside it, the stages s … t are reversed in

    C(s, t, m) = min( forward(s) + C(s + 1, t, m - saved(s)) + backward(s),                        save all of stage s
                      min over s' of Σ forward(s … s'-1) + C(s', t, m - output(s'-1)) + C(s, s'-1, m) )   checkpoint s'

by dynamic programming over memory in slots, each where the passes' own peaks leave room. Off a chain proper the program
counts some bytes twice: the memory that it may count on is searched for, the most whose schedule fits, measured exactly
on the whole graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from planc.problem.problem import Problem
from planc.schedule.schedule import Schedule
from planc.schedule.solver import Candidate, SolveOptions
from planc_solvers.baselines.selection import Need, fastest_fitting
from planc_solvers.baselines.stages import Chain, chain_of

SLOTS = 240
"""Units of memory in the dynamic program; the authors use 500."""

NEAR = 6
"""Memories around the largest that fits that are tried as well: what a schedule takes is not quite monotone."""

Action = tuple[str, int]
Floats = npt.NDArray[np.float64]


class Rotor:
    """Recompute only, by dynamic programming on the chain."""

    def solve(self, problem: Problem, options: SolveOptions) -> Candidate:  # noqa: ARG002
        """Raises InfeasibleBudgetError when no memory that the program is given leads to a schedule that fits."""
        return fastest_fitting("rotor", problem, _schedules(problem))


def _schedules(problem: Problem) -> Iterator[Schedule]:
    yield Schedule(tuple(range(len(problem.tasks))))
    table = Table.of(chain_of(problem))
    made: dict[int, Schedule | None] = {}

    def fits(memory: int) -> bool:
        made[memory] = table.schedule(memory)
        schedule = made[memory]
        return schedule is not None and Need.of(problem, schedule).fits(problem)

    low, high = table.least(), SLOTS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    for memory in range(max(low - NEAR, table.least()), min(low + NEAR, SLOTS) + 1):
        schedule = made[memory] if memory in made else table.schedule(memory)
        if schedule is not None:
            yield schedule


@dataclass(frozen=True)
class Table:
    """Times C(s, t, m) (ns) and the choice behind each: 0 saves all of stage s, k checkpoints the input of stage s + k.

    Memory comes in slots of `unit` bytes, m slots beside the input of stage s; what enters the backward pass of stage t
    counts among them, as in the paper.
    """

    chain: Chain
    unit: int
    time: dict[tuple[int, int], Floats]
    choice: dict[tuple[int, int], npt.NDArray[np.int64]]

    @classmethod
    def of(cls, chain: Chain) -> "Table":
        """The table for as many slots as hold everything that the passes save and need."""
        stages = chain.stages
        most = sum(s.saved for s in stages) + max(max(s.saving_peak, s.backward_peak) + s.gradient for s in stages)
        table = cls(chain, max(1, ceil(most / (SLOTS - 3))), {}, {})
        forward = np.concatenate([[0], np.cumsum([s.forward_ns for s in stages])])
        for length in range(1, len(stages) + 1):
            for s in range(len(stages) - length + 1):
                table._fill(s, s + length - 1, forward)
        return table

    def slots(self, size: int) -> int:
        """Slots that so many bytes take."""
        return ceil(size / self.unit)

    def _fill(self, s: int, t: int, forward: npt.NDArray[np.int64]) -> None:
        stages = self.chain.stages
        own = float(stages[s].forward_ns + stages[s].backward_ns)
        rest = _shifted(self.time[s + 1, t], self.slots(stages[s].saved)) if t > s else np.zeros(SLOTS + 1)
        saving = max(stages[t].gradient + stages[s].saving_peak, stages[s].backward_peak)
        best = _from(rest + own, self.slots(saving))
        chosen, passing = np.zeros(SLOTS + 1, np.int64), 0
        for cut in range(s + 1, t + 1):
            before = stages[cut - 2].output if cut - 1 > s else 0
            passing = max(passing, stages[cut - 1].passing_peak + before)
            cost = (
                float(forward[cut] - forward[s])
                + _shifted(self.time[cut, t], self.slots(stages[cut - 1].output))
                + self.time[s, cut - 1]
            )
            cost = _from(cost, self.slots(stages[t].gradient + passing))
            better = cost < best
            best, chosen[better] = np.where(better, cost, best), cut - s
        self.time[s, t], self.choice[s, t] = best, chosen

    def least(self) -> int:
        """The least slots with which the whole chain can be reversed."""
        finite = np.isfinite(self.time[0, len(self.chain.stages) - 1])
        return int(np.argmax(finite)) if finite.any() else SLOTS

    def schedule(self, memory: int) -> Schedule | None:
        """The best schedule with so many slots; None where there is none."""
        last = len(self.chain.stages) - 1
        if not np.isfinite(self.time[0, last][memory]):
            return None
        return self.chain.schedule(self._actions(0, last, memory))

    def _actions(self, s: int, t: int, memory: int) -> Iterator[Action]:
        choice = int(self.choice[s, t][memory])
        if choice == 0:
            yield "forward", s
            if t > s:
                yield from self._actions(s + 1, t, memory - self.slots(self.chain.stages[s].saved))
            yield "backward", s
            return
        yield from (("forward", stage) for stage in range(s, s + choice))
        yield from self._actions(s + choice, t, memory - self.slots(self.chain.stages[s + choice - 1].output))
        yield from self._actions(s, s + choice - 1, memory)


def _from(times: Floats, slots: int) -> Floats:
    """The times where there are at least so many slots, infinite below."""
    return np.where(np.arange(SLOTS + 1) >= slots, times, np.inf)


def _shifted(times: Floats, slots: int) -> Floats:
    """The times with so many slots less: infinite where there are not as many."""
    slots = min(slots, SLOTS + 1)
    return np.concatenate([np.full(slots, np.inf), times[: SLOTS + 1 - slots]])
