"""An operator of oneDNN's cut into parts that ONNX Runtime's own threads compute side by side, each alone.

Its threads turn in a loop when they wait, so they begin within microseconds. The library's own team has to be woken, while
ONNX Runtime's threads are put to sleep: .13 ms in all (two cores), more than a norm of [2048, 256] takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Protocol

from planc.cores import cpu_threads
from planc.runtime.onednn.library import Library
from planc.units import align_up

_ALIGNMENT = 64

_LINE = 16
"""Elements that parts begin at a multiple of."""

_LEAST = 1 << 15
"""Elements of a part: for fewer no second thread is asked."""

_MOST = 32
"""Parts: the library adds as many at once."""


def ranges(count: int, size: int) -> list[range]:
    """How `count` rows of so many elements are dealt out to the threads of this process."""
    parts = max(1, min(cpu_threads(), _MOST, count, count * size // _LEAST))
    return [range(count * k // parts, count * (k + 1) // parts) for k in range(parts)]


def elements(size: int) -> list[range]:
    """How so many elements are dealt out, in whole lines of the cache."""
    return [range(part.start * _LINE, min(part.stop * _LINE, size)) for part in ranges(-(-size // _LINE), _LINE)]


class Runs(Protocol):
    """What runs as a program does."""

    @property
    def workspace(self) -> int:
        """Bytes that a run needs beside its operands."""

    def run(self, addresses: Sequence[int]) -> None:
        """Compute from the addresses of operands and workspace."""


@dataclass(frozen=True)
class Parts:
    """Programs that run side by side, and the one that joins what they leave in `shared` bytes of the workspace: in the
    addresses of a run these follow the operands, and each program's own workspace comes last."""

    library: Library
    programs: Sequence[Runs]
    shared: int = 0
    after: Runs | None = None

    @cached_property
    def workspace(self) -> int:
        """Bytes that a run needs beside its operands."""
        return self._begins[-1] + _ALIGNMENT if self._begins[-1] else 0

    @cached_property
    def _all(self) -> list[Runs]:
        return [*self.programs, *([self.after] if self.after is not None else [])]

    @cached_property
    def _begins(self) -> list[int]:
        """Where the workspace of each program begins, and where that of the last one ends."""
        sizes = (align_up(program.workspace, _ALIGNMENT) for program in self._all)
        return list(accumulate(sizes, initial=align_up(self.shared, _ALIGNMENT)))

    @property
    def side_by_side(self) -> list[Callable[[Sequence[int]], None]]:
        """What each of the threads does, given the addresses of operands and workspace."""
        return [partial(self._run, k) for k in range(len(self.programs))]

    def join(self, addresses: Sequence[int]) -> None:
        """What is left to do when all are done."""
        if self.after is not None:
            self._run(len(self.programs), addresses)

    def run(self, addresses: Sequence[int]) -> None:
        """Everything, one after the other."""
        for part in self.side_by_side:
            part(addresses)
        self.join(addresses)

    def _run(self, which: int, addresses: Sequence[int]) -> None:
        given = addresses
        if self.workspace:
            *operands, base = addresses
            shared = align_up(base, _ALIGNMENT)
            given = [*operands, shared, shared + self._begins[which]]
        with self.library.one_thread():
            self._all[which].run(given)
