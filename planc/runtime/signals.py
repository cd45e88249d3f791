"""Signals wait while something must not be left half done.

Python runs a signal's handler between two bytecodes of the main thread, those of callbacks from C included. What it
raises there (KeyboardInterrupt) would end a step in its middle, with some parameters replaced and others not, or leave
an allocation inside ONNX Runtime without an answer, which kills the process.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_FAULTS = {"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT"}

_WAITING = tuple(number for number in sorted(signal.Signals) if number.name not in _FAULTS and number < signal.SIGRTMIN)
"""Signals that may wait: not those that cannot be caught, or that tell of a fault which goes on until it is handled."""


class _Gate:
    """Takes a signal in place of `handler`: notes it while shut, and passes it on when open.

    It does what `handler` did even where it were left in place.
    """

    def __init__(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.number, self.handler = number, handler
        self.shut, self.waiting = True, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.shut:
            self.waiting += 1
        else:
            self.handler(number, frame)

    def open(self) -> None:
        """Put the handler back."""
        self.shut = False
        signal.signal(self.number, self.handler)


_shut: list[list[_Gate]] = []
"""The gates of every `signals_wait` under way in the main thread, the innermost last."""


def handle_waiting() -> None:
    """Handle what has come since: for blocks that may last, where leaving them loses nothing that is not accounted for.

    Raises what a handler raises, such as KeyboardInterrupt. On other threads than the main one it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for gates in reversed(_shut):  # an inner gate passes on to the outer one, which is shut too
        for gate in gates:
            while gate.waiting:
                gate.waiting -= 1
                gate.handler(gate.number, None)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Run the block without a signal handler written in Python; what came meanwhile is handled at its end.

    Handlers run in the main thread only, so on any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    gates: list[_Gate] = []
    try:
        _shut.append(gates)
        for number in _WAITING:
            handler = signal.getsignal(number)
            if callable(handler):
                gates.append(_Gate(number, handler))
                signal.signal(number, gates[-1])
        yield
    finally:
        _shut[:] = [others for others in _shut if others is not gates]
        _open(gates)


def _open(gates: list[_Gate]) -> None:
    """Put all handlers back, whatever one of them raises meanwhile, and send again what waited."""
    try:
        while gates:
            gate = gates[-1]
            gate.open()
            gates.pop()
            for _ in range(gate.waiting):
                signal.raise_signal(gate.number)
    finally:
        if gates:
            _open(gates)
