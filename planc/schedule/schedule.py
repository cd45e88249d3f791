"""A schedule: what a solver decides. Positions count executed steps: position p is the boundary before step p."""

from dataclasses import dataclass

from planc.enums import Direction


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer of a whole value.

    It may begin once every step before `start` is done, and step `stop` waits until it is complete
    (0 ≤ start ≤ stop ≤ number of steps). The device bytes are held on the whole of [start, stop): for a copy out they
    are released at `stop`, for a copy in they are claimed at `start`.
    """

    value: int
    direction: Direction
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Executed tasks in order (a repeated task is a recomputation), copies in engine order, what starts on the host.

    `copies` are listed in the order in which each direction's engine takes them. `host_start` holds the batch, state
    and constant values whose device copy is absent when the step begins; a state value in it must be back on the host,
    in its new version, when the step ends, and one not in it must be on the device then. `choices` has for each step
    the form in which its task runs (`Task.forms`); empty says that every task runs as it stands.
    """

    steps: tuple[int, ...]
    copies: tuple[Transfer, ...] = ()
    host_start: frozenset[int] = frozenset()
    choices: tuple[int, ...] = ()

    def choice(self, position: int) -> int:
        """The form in which the step at `position` runs."""
        return self.choices[position] if self.choices else 0

    def engine(self, direction: Direction) -> tuple[Transfer, ...]:
        """The copies of one direction, in engine order."""
        return tuple(copy for copy in self.copies if copy.direction is direction)
