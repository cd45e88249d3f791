"""Ctrl-C: a command says what was kept, and a search ends with the best plan so far."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from planc.cli.console import err
from planc.clock import WALL

_FAR_S = 1e9
"""More seconds than any time limit."""


class Interrupted(KeyboardInterrupt):
    """An interrupt of a command that says what it kept."""


@contextmanager
def interrupts_tell(kept: str) -> Iterator[None]:
    """Where the block is interrupted, let the command's last message say what was kept."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(kept) from None


class GracefulStop:
    """While it is entered and `armed`, the first Ctrl-C lets every time limit pass, so that a search ends with what it has;
    the second one, or any while it is not armed, interrupts as usual."""

    def __init__(self) -> None:
        self.armed = self.asked = False

    def __enter__(self) -> "GracefulStop":
        self._usual = signal.getsignal(signal.SIGINT)
        self._here = threading.current_thread() is threading.main_thread()
        if self._here:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._here:
            signal.signal(signal.SIGINT, self._usual)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.armed and not self.asked:
            self.asked = True
            WALL.skip(_FAR_S)
            err().print("stopping with the best plan so far; Ctrl-C again stops without")
        elif callable(self._usual):
            self._usual(number, frame)
        else:
            raise KeyboardInterrupt
