"""The time of one search for a schedule that packs: its limit, how late it may end, and what must be kept for its end."""

from dataclasses import dataclass

from planc.clock import StoppableClock


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """Shortest useful times, and how late a search may end."""

    overtime: float = 0.1
    """Part of the time limit for which something that packs is still looked for when the limit is over, …"""
    overtime_s: float = 0.3
    """… and seconds more. A tenth and a second are promised: the rest is for writing the plan down and verifying it."""
    least_s: float = 0.5
    """Shortest useful time of a solve: while nothing packs each has as much, and with less left nothing more is tried."""
    least_pack_s: float = 0.2
    """Shortest useful time of a packing: greedy packings alone ignore the gaps in lifetimes."""
    usual_s: float = 5.0
    """Time limits from which these two hold. Of shorter ones both are the same parts, so that a limit is kept although much
    is tried and nothing packs, …"""
    least_part: float = 0.2
    """… but no less than this part of them."""
    rescue_s: float = 0.2
    """Time that the least plan takes (`planc.compiler.least`), …"""
    rescue_tries: float = 3.0
    """… and so many times that of lowering and packing a schedule: kept where nothing else may come of the search."""

    op_try_s: float = 6e-5
    """Time for each operator of the graph in which a schedule is lowered and packed, until it is known, …"""
    greedy_part: float = 0.25
    """… at least so much of it where a packing was searched for in vain: the least plan and the last try do not search."""
    writing_tries: float = 1.5
    """Times what lowering and packing a schedule takes, kept for writing the plan down and verifying it."""
    proof_s: float = 1e-3
    """Time for each task below which no bound is asked for: relaxations of so many tasks take longer, and slow down the
    search. Of a step of 1,217 tasks no bound above the trivial one was proved in a solve of 1.4 s, …"""
    proof_most_s: float = 1.0
    """… but no longer than this: large steps have their first plans from the proof."""


TIMES = TimeSettings()


class SearchTime:
    """Seconds by `clock`: `limit_s` of them until the limit, `late_s` more where nothing packs by then. Unless it is
    `rescued`, a search that nothing comes of leaves what it takes to make the least plan. A graph has so many `ops`."""

    def __init__(self, clock: StoppableClock, limit_s: float, late_s: float, rescued: bool, ops: int = 0) -> None:
        self._clock, self._limit_s = clock, limit_s
        self._deadline = clock.now() + limit_s
        self._last = self._deadline + late_s
        self._rescued = rescued or clock.counted  # the least plan counts its work by itself
        self._guess_s = 0.0 if clock.counted else TIMES.op_try_s * ops
        self._try_s: float | None = None
        self.packing_s = 0.0
        """What the packing of the last schedule took, all its variants: time for another must be left."""

    def now(self) -> float:
        """Seconds since some moment."""
        return self._clock.now()

    def tried(self, seconds: float, searched_s: float = 0.0) -> None:
        """Tell what lowering and packing one variant took, of which a search without success was to take `searched_s`."""
        alone_s = max(seconds - searched_s, TIMES.greedy_part * seconds)
        self._try_s = alone_s if self._try_s is None else min(alone_s, self._try_s)

    def packs(self) -> None:
        """Tell that something packs: the least plan is not needed."""
        self._rescued = True

    def left(self) -> float:
        """Seconds until the limit."""
        return max(0.0, self._deadline - self.now())

    def room(self) -> float:
        """Seconds in which something may still be tried."""
        tries = TIMES.writing_tries + (0.0 if self._rescued else TIMES.rescue_tries)
        kept = (0.0 if self._rescued else TIMES.rescue_s) + tries * self._one_s
        return max(0.0, self._last - kept - self.now())

    @property
    def _one_s(self) -> float:
        return self._guess_s if self._try_s is None else self._try_s

    def another_try(self) -> bool:
        """Whether one more variant may be packed: the first is, however late."""
        return self._try_s is None or self._try_s <= self.room()

    def late(self) -> bool:
        """Whether the time that is left is too short for another solve and its packing."""
        return self.left() <= self.least(TIMES.least_s) + self.packing_s

    def over(self) -> bool:
        """Whether the same holds of the room, so that nothing more is tried, whatever was found."""
        return self.room() <= self.least(TIMES.least_s) + self._one_s

    def tries(self) -> int:
        """Solves, each with a quick packing, for which there is time at most: the last is to be sure to pack."""
        return max(1, int(self.room() / (self.least(TIMES.least_s) + self._one_s)))

    def for_proof(self, limit_s: float, tasks: int) -> bool:
        """Whether a solve of so many tasks has time to prove a bound."""
        return self._clock.counted or limit_s >= min(TIMES.proof_most_s, TIMES.proof_s * tasks)

    def solve_s(self, share: float) -> float:
        """That share of the time that is left, the least that is useful at least; packing must have time too."""
        least = self.least(TIMES.least_s)
        return min(max(least, self.left() * share), max(least, self.room() - self.packing_s))

    def pack_s(self, share: float) -> float:
        """The same for a packing, which nothing follows."""
        return min(max(self.least(TIMES.least_pack_s), self.left() * share), self.room())

    def least(self, seconds: float) -> float:
        """Shortest useful time, `seconds` where the time limit is a usual one."""
        part = min(1.0, self._limit_s / TIMES.usual_s)
        return seconds * max(TIMES.least_part, part)
