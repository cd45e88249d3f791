"""Who may use a loaded step and when: one caller at a time, in the process that loaded it, until it is closed.

A step is a transaction: either all of its state is replaced or none of it can be read any more.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from planc.errors import DeviceError
from planc.runtime.signals import signals_wait


class Guard:
    """`use` is around everything that touches the device. With `bound_to_thread` only the thread that made the guard may
    use it, as libraries of a card keep what they have for each thread; else threads wait for each other.

    `torn` says why the state is neither the old nor the new one, empty while it is whole.
    """

    def __init__(self, bound_to_thread: bool) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._thread = threading.get_ident() if bound_to_thread else None
        self.closed = False
        self.torn = ""
        self._changing = False

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made the guard: its threads and its card are not there."""
        return os.getpid() != self._process

    @contextmanager
    def use(self, torn: bool = False) -> Iterator[None]:
        """Alone with the device, no signal handled meanwhile. Raises DeviceError where the step cannot be used; one that
        is torn can be with `torn`."""
        if self.forked:
            raise DeviceError(
                f"the step was loaded in process {self._process}; this one was forked from it and has none of its "
                "threads: load the plan here"
            )
        with self._lock, signals_wait():
            self._require_outside()
            if self.closed:
                raise DeviceError("the step is closed: load the plan again")
            if self._thread not in (None, threading.get_ident()):
                raise DeviceError("the step belongs to the thread that loaded it: call it there, or load it here too")
            if self.torn and not torn:
                raise DeviceError(
                    f"a step ended half-way and left some state replaced and some not ({self.torn}): give all of it "
                    "anew with load_state or set_state, or close the step"
                )
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around what replaces state: the guard stays torn unless the block ends well."""
        self.torn, self._changing = self.torn or "it was interrupted", True
        try:
            yield
        except BaseException as error:
            self.torn = str(error) or type(error).__name__
            raise
        finally:
            self._changing = False
        self.torn = ""

    def _require_outside(self) -> None:
        """Raise DeviceError for a call from within a step: Python may run a finalizer or a callback of the same thread
        there, which the lock lets pass."""
        if self._changing:
            raise DeviceError(
                "the step was used from within itself, by a callback or a finalizer: use or close it when it has ended"
            )

    @contextmanager
    def closing(self) -> Iterator[bool]:
        """Alone with the device for the last time; whether there is something left to close."""
        if self.forked:
            yield False
            return
        with self._lock, signals_wait():
            self._require_outside()
            last, self.closed = not self.closed, True
            yield last
