"""Work in processes of their own, so that the driver counts the memory of each alone."""

import fcntl
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from planc.runtime.cuda.driver import Context, call

MIB = 1 << 20
WARM, TIMED = 3, 15

Row = dict[str, Any]
Work = Callable[[], Row]

NAMES = ("asked_mib", "driver_mib", "ms", "predicted_ms", "bound_ms", "planning_s", "bits_equal", "repeatable")
"""Measured columns of a row of `head_to_head.py`."""


def row_of(**values: object) -> Row:
    """A row's measured columns, null where there is nothing to measure."""
    return {name: values.get(name) for name in NAMES}


def used() -> int:
    """Device memory in use on the whole card."""
    free, total = call("cuMemGetInfo")
    return int(total - free)


def median_ms(work: Callable[[], object], warm: int = WARM, timed: int = TIMED) -> float:
    """Median wall-clock ms of a call that ends with the card idle."""
    times = []
    for _ in range(warm + timed):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times[warm:]), 3)


def alone(work: Work, start: str = "fork", lock: Path | None = None) -> dict[str, Any]:
    """What `work` finds in a process of its own, or what went wrong; nothing of CUDA may be loaded here yet.

    A process that starts by "spawn" imports everything anew, and `work` must be picklable. Whoever names the same file as
    `lock` waits for its turn on the card.
    """
    with _turn(lock):
        return _found(*_started(work, start))


@contextmanager
def _turn(lock: Path | None) -> Iterator[None]:
    """Hold the lock, where there is one."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def together(works: Sequence[Work], at_once: int, start: str = "fork", card: bool = True) -> list[dict[str, Any]]:
    """As `alone` for each work, up to `at_once` processes at the same time; findings in the order of the works.

    Without `card` they take no memory of it."""
    found: dict[int, dict[str, Any]] = {}
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    for index, work in enumerate(works):
        process, pipe = _started(work, start, card)
        running[pipe] = index, process
        if len(running) == at_once:
            _collect(running, found)
    while running:
        _collect(running, found)
    return [found[index] for index in range(len(works))]


def _collect(running: dict[Connection, tuple[int, BaseProcess]], found: dict[int, dict[str, Any]]) -> None:
    ready = set(wait(list(running)))
    for pipe in [pipe for pipe in running if pipe in ready]:
        index, process = running.pop(pipe)
        found[index] = _found(process, pipe)


def _started(work: Work, start: str, card: bool = True) -> tuple[BaseProcess, Connection]:
    context: Any = multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    process: BaseProcess = context.Process(target=_report, args=(work, theirs, card))
    process.start()
    theirs.close()
    return process, ours


def _found(process: BaseProcess, pipe: Connection) -> dict[str, Any]:
    try:
        found: dict[str, Any] = pipe.recv()
    except EOFError:
        process.join()
        found = {"FAILED": f"the process ended with {process.exitcode}"}
    process.join()
    return found


def _report(work: Work, answer: Connection, card: bool) -> None:
    try:
        if card:
            Context()
        answer.send({"context_MiB": used() // MIB if card else 0, **work()})
    except Exception as error:
        traceback.print_exc(limit=8)
        answer.send({"FAILED": f"{type(error).__name__}: {str(error)[:500]}"})
