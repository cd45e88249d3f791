"""The n-th call of the system fails, for every n: whatever a step asks for may be refused at any moment."""

import errno
import gc
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import planc.runtime.cpu
import planc.runtime.file_tier
import planc.runtime.ort.binding
import planc.runtime.tiers
from planc.errors import PlancError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.runtime.measure import synthetic_feeds
from planc.runtime.scratch import HostHeap
from planc.runtime.step import TrainingStep, load

STEPS = 2


@dataclass
class Countdown:
    """Counts calls; the one numbered `fails_at` raises `error`, or gives None where there is none."""

    fails_at: int
    error: BaseException | None
    calls: int = 0
    reached: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """`real`, but for the call that fails."""

        def call(*arguments: Any, **named: Any) -> Any:
            with self.lock:
                self.calls += 1
                failing = self.calls == self.fails_at
                self.reached = self.reached or failing
            if failing and self.error is not None:
                raise self.error
            return None if failing else real(*arguments, **named)

        return call


class _Maps:
    """The module mmap as the file tier sees it, its maps counted."""

    def __init__(self, countdown: Countdown) -> None:
        self.mmap = countdown.around(planc.runtime.file_tier.mmap.mmap)


def _runs(countdown: Countdown, real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: countdown.around(real(*arguments))


_FULL, _BROKEN = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")
_MEMORY, _NO_THREAD = OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't start new thread")
_REFUSED = RuntimeError("an operator failed")

SITES: dict[str, tuple[object, str, BaseException | None]] = {
    "slab": (planc.runtime.cpu, "populated", _MEMORY),
    "host slab": (planc.runtime.tiers, "populated", _MEMORY),
    "session": (planc.runtime.cpu, "cpu_session", _REFUSED),
    "run": (planc.runtime.ort.binding, "bound_run", _REFUSED),
    "thread": (threading.Thread, "start", _NO_THREAD),
    "heap": (HostHeap, "allocate", None),
    "open": (os, "open", _BROKEN),
    "reserve": (os, "posix_fallocate", _FULL),
    "write": (os, "pwrite", _FULL),
    "read": (os, "preadv", _BROKEN),
    "bounce": (planc.runtime.file_tier, "mmap", _MEMORY),
    "temporary": (tempfile, "mkstemp", _FULL),
    "mode": (os, "fchmod", _BROKEN),
    "flush": (os, "fsync", _FULL),
    "replace": (os, "replace", _BROKEN),
}
"""What fails, and how: an attribute that planc calls, and what it raises; None for a call that gives None."""


@contextmanager
def failing(site: str, number: int) -> Iterator[Countdown]:
    """Let the call of `site` with this number, from 1, fail."""
    owner, name, error = SITES[site]
    countdown, real = Countdown(number, error), getattr(owner, name)
    if site == "bounce":
        with mock.patch.object(owner, name, _Proxy(real, countdown)):
            yield countdown
        return
    replaced = _runs(countdown, real) if site == "run" else countdown.around(real)
    if isinstance(owner, type):
        counted = replaced
        replaced = lambda self, *arguments: counted(self, *arguments)  # noqa: E731 - a function, to be bound
    with mock.patch.object(owner, name, replaced):
        yield countdown


class _Proxy:
    """A module one of whose functions is counted."""

    def __init__(self, module: Any, countdown: Countdown) -> None:
        self._module, self.mmap = module, countdown.around(module.mmap)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Trials:
    """One plan whose steps, saves and loads are to fail everywhere, and what an undisturbed run makes of it."""

    def __init__(self, imported: ImportedModel, plan: Plan, folder: Path) -> None:
        self.imported, self.plan, self.folder = imported, plan, folder
        self.saved, self.whole = folder / "state.safetensors", folder / "first.safetensors"
        with self._load() as step:
            step.save_state(self.whole)
            self.states = [self._bytes(step)]
            for index in range(2 * STEPS):
                step(synthetic_feeds(imported.graph, index))
                self.states.append(self._bytes(step))
        self._held = self._now_held()

    def fault(self, site: str, number: int) -> tuple[str | None, bool]:
        """What is wrong after the failure, None if nothing is; and whether there were so many calls."""
        self.saved.unlink(missing_ok=True)
        with failing(site, number) as countdown:
            fault = self._checked(countdown)
        gc.collect()
        left = [path.name for path in self.folder.iterdir() if path not in (self.saved, self.whole)]
        held = self._now_held()
        if fault is None and (left or held != self._held):
            fault = f"left behind: {left or ''} threads, files, memory {held} instead of {self._held}"
        return (None if fault is None else f"{site} {number}: {fault}"), countdown.reached

    def _checked(self, countdown: Countdown) -> str | None:
        """What is wrong, None if nothing; nothing fails any more once the scenario has ended."""
        step: TrainingStep | None = None
        try:
            step = self._load()
            self._scenario(step)
        except PlancError:
            pass
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        finally:
            countdown.fails_at = -1
        if step is None:
            return None
        try:
            return self._torn(step) or self._recovered(step)
        except PlancError as error:
            return f"after the failure: {error}"
        finally:
            step.close()

    def _scenario(self, step: TrainingStep) -> None:
        for index in range(STEPS):
            step(synthetic_feeds(self.imported.graph, index))
        step.save_state(self.saved)
        step.load_state(self.saved)
        step(synthetic_feeds(self.imported.graph, STEPS))

    def _torn(self, step: TrainingStep) -> str | None:
        """The state is one of the undisturbed run's, or is refused; the file is whole or not there."""
        try:
            if self._bytes(step) not in self.states:
                return "the state is that of no step"
        except PlancError as error:
            if "half-way" not in str(error):
                raise
        if self.saved.exists():
            with self._load() as other:
                other.load_state(self.saved)
                if self._bytes(other) != self.states[STEPS]:
                    return "the file holds another state"
        return None

    def _recovered(self, step: TrainingStep) -> str | None:
        """Given all state anew, the step goes on bit for bit."""
        step.load_state(self.whole)
        for index in range(STEPS):
            step(synthetic_feeds(self.imported.graph, index))
        return None if self._bytes(step) == self.states[STEPS] else "other bits after the state was given anew"

    def _load(self) -> TrainingStep:
        return load(self.plan, self.imported, host_tier=f"file:{self.folder}")

    @staticmethod
    def _bytes(step: TrainingStep) -> dict[str, bytes]:
        return {name: np.asarray(value).tobytes() for name, value in step.state().items()}

    @staticmethod
    def _now_held() -> tuple[int, int]:
        """Threads and open files."""
        return threading.active_count(), len(os.listdir("/proc/self/fd"))
