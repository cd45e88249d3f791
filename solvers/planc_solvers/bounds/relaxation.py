"""The coarse model as an object: its variables, and the sums of them that rows are made of."""

from dataclasses import dataclass

from planc.problem.problem import Problem
from planc_solvers.bounds.linear_model import LinearModel, Terms
from planc_solvers.bounds.stages import Stages
from planc_solvers.bounds.variables import Variables


@dataclass(frozen=True, slots=True)
class Coarse:
    """The model of one choice of critical tasks, and where its variables and some of its rows stand."""

    stages: Stages
    x: Variables
    model: LinearModel
    memory_rows: tuple[int, ...] = ()
    """A row for each critical task, then where there is state that of the step's ends; right sides: parts of the budget."""
    host_rows: tuple[int, ...] = ()
    """Rows whose right side is a part of the host's budget."""
    time: tuple[int, ...] = ()
    """The variable that is the time of each stage."""
    copy_rows: tuple[int, ...] = ()
    """Rows that let a stage last as long as its copies; their first coefficient is the stage's time's."""

    @property
    def problem(self) -> Problem:
        """What the model is of."""
        return self.stages.problem

    @property
    def critical(self) -> tuple[int, ...]:
        """The critical tasks."""
        return self.stages.critical

    def swappable(self, value: int) -> bool:
        """Whether copies of `value` may be made."""
        return self.problem.values[value].swappable

    def is_fixed(self, value: int, k: int) -> bool:
        """Whether `value` is on the device at critical task k, whatever is decided."""
        return (value, k) in self.x.fixed

    def must_return(self, value: int, stage: int) -> bool:
        """Whether `value` may be absent at the start of `stage`, so that an access in it needs it back."""
        return stage >= self.stages.first_return(value) and not self.is_fixed(value, stage - 1)

    def supply(self, value: int, stage: int) -> Terms:
        """P_v,k-1 + R_tk + I_vk: ways for `value` to be on the device in `stage`: still there, recomputed, copied in."""
        previous = self.x.present.get((value, stage - 1)) if stage else self.x.resident.get(value)
        still = [] if previous is None else [(previous, 1.0)]
        return [*still, *self.remade(value, stage)]

    def remade(self, value: int, stage: int) -> Terms:
        """R_tk + I_vk: ways for `value` to come back to the device in `stage`."""
        producer = self.problem.producer[value]
        again = self.x.recomputed.get((producer, stage)) if producer is not None else None
        found = (again, self.x.copied_in.get((value, stage)))
        return [(variable, 1.0) for variable in found if variable is not None]

    def outs(self, value: int, first: int, last: int) -> Terms:
        """Σ O_vq over the stages q = first … last."""
        found = (self.x.copied_out.get((value, q)) for q in range(first, last + 1))
        return [(variable, 1.0) for variable in found if variable is not None]

    def repeats(self, value: int, first: int, last: int) -> Terms:
        """Σ R_tq of the task t that makes `value`, over the stages q = first … last."""
        producer = self.problem.producer[value]
        found = (self.x.recomputed.get((producer, q)) for q in range(first, last + 1)) if producer is not None else ()
        return [(variable, 1.0) for variable in found if variable is not None]

    def ins(self, value: int, first: int, last: int) -> Terms:
        """Σ I_vq over the stages q = first … last."""
        found = (self.x.copied_in.get((value, q)) for q in range(first, last + 1))
        return [(variable, 1.0) for variable in found if variable is not None]

    def content(self, value: int, before: int, until: int) -> Terms:
        """P_vk + Σ O_vq up to k + Σ R_tq up to `until`: where a computed value's content is at critical task k = `before`,
        or its recomputation after it."""
        held = [(self.x.present[value, before], 1.0), *self.outs(value, self.stages.birth[value], before)]
        return [*held, *self.repeats(value, before + 1, until)]

    def returns(self, value: int, stage: int) -> tuple[list[int], list[int]]:
        """Variables by which `value`, given up at the end of `stage`, may come back: copies in, recomputations."""
        begin, last = stage + 1, self.stages.last
        copies, repeats = self.ins(value, begin, last), self.repeats(value, begin, last)
        return [variable for variable, _ in copies], [variable for variable, _ in repeats]


def minus(terms: Terms) -> Terms:
    """The terms with their signs changed: for the right side of a row."""
    return [(variable, -weight) for variable, weight in terms]
