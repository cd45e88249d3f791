"""What reading a model may take: a few bytes of a file must not keep a machine busy for hours, or fill its memory.

Sizes and counts have limits of their own, looked at before any work. What passes them all together is bounded here.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from planc.errors import ModelError, UsageError
from planc.units import format_bytes, parse_size

SECONDS, BYTES = "PLANC_IMPORT_SECONDS", "PLANC_IMPORT_BYTES"

DEFAULT_SECONDS = 600.0
"""Of processor time, which no other process lengthens: ten times what the largest graphs that planc is measured on take."""


@dataclass
class _Budget:
    """Of one import: when its thread's processor time (s) is over, and the bytes that its constants may still take."""

    title: str
    ends: float
    seconds: float
    total: int
    left: int


_current: ContextVar[_Budget | None] = ContextVar("import_budget", default=None)


@contextmanager
def import_budget(title: str) -> Iterator[None]:
    """Around reading the model that messages call `title`; within another one, that one counts.

    Raises UsageError where the environment's limits cannot be read.
    """
    if _current.get() is not None:
        yield
        return
    seconds, size = _seconds(), _bytes()
    token = _current.set(_Budget(title, time.thread_time() + seconds, seconds, size, size))
    try:
        yield
    finally:
        _current.reset(token)


def spend_time(where: str) -> None:
    """Once for everything that takes a moment. Raises ModelError, naming `where`, when the time is over."""
    budget = _current.get()
    if budget is not None and time.thread_time() > budget.ends:
        raise ModelError(
            f"{budget.title}: importing it took {budget.seconds:g} s of processor time and was still at {where}; if the "
            f"model is right, allow more by the environment variable {SECONDS}"
        )


def spend_bytes(size: int, what: str) -> None:
    """Before `what`, a constant of that many bytes, is held. Raises ModelError when all of them take too much."""
    budget = _current.get()
    if budget is None:
        return
    budget.left -= size
    if budget.left < 0:
        raise ModelError(
            f"{budget.title}: its constants take more than {format_bytes(budget.total)}, {what} of {format_bytes(size)} "
            f"among them; if the model is right, allow more by the environment variable {BYTES}"
        )


def _seconds() -> float:
    text = os.environ.get(SECONDS)
    try:
        seconds = DEFAULT_SECONDS if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{SECONDS}={text!r}: expected a number of seconds above 0")
    return seconds


def _bytes() -> int:
    """What the environment says, else all memory of the machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = os.environ.get(BYTES)
    try:
        return memory if text is None else parse_size(text, memory)
    except UsageError as error:
        raise UsageError(f"{BYTES}: {error}") from error
