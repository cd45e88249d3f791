"""The ranks of a step: processes that a launcher such as torchrun started, and what they tell each other.

They meet at the key-value store of `torch.distributed`, at the address in the environment (`MASTER_ADDR`, `MASTER_PORT`,
`RANK`, `WORLD_SIZE`, `LOCAL_RANK`). Nobody waits there for ever: a rank whose process is gone, that has failed or that has
closed its step is named by everybody else, and so is one that does not come in time.
"""

import atexit
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from planc.errors import PlancError, RankError, UsageError
from planc.runtime.ranks.settings import SettingsUsed

_TIMEOUT, _SILENCE = ("PLANC_RANK_TIMEOUT", 300.0), ("PLANC_RANK_SILENCE", 20.0)
"""Environment variable and usual value: seconds that a rank may be late, and that one on another machine may be silent."""

_BEAT_S, _LOOK_S, _POLL_S, _GRACE_S = 0.5, 0.05, 0.002, 3.0
"""Seconds between signs of life, between looks after the others and at the store, and for which the cause of a failed
exchange is sought."""


@dataclass(frozen=True)
class Place:
    """Which of the ranks this process is, and which of those of its machine."""

    rank: int
    size: int
    local: int


def place() -> Place | None:
    """What a launcher says in the environment; None for a process alone. Raises UsageError where it is incomplete."""
    names = ("RANK", "WORLD_SIZE")
    found = [os.environ.get(name) for name in names]
    if not any(found) or found[1] == "1":
        return None
    missing = [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(f"{missing[0]} is not set: start the ranks with torchrun, or set {', '.join(names)} and "
                         "MASTER_ADDR, MASTER_PORT for each")  # fmt: skip
    try:
        rank, size, local = (int(os.environ.get(n) or found[0] or "") for n in (*names, "LOCAL_RANK"))
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from error
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank}, expected one of 0 to {size - 1} (WORLD_SIZE {size})")
    return Place(rank, size, local)


@cache
def current_group() -> "RankGroup":
    """This process's group, which it joins on the first call.

    Raises UsageError without a launcher, DeviceError without PyTorch, RankError where the others do not come.
    """
    found = place()
    if found is None:
        raise UsageError("this process is alone: start the ranks with torchrun --nproc-per-node N")
    return RankGroup(found)


class RankGroup:
    """The ranks of one run. Every method that meets the others is called by all ranks in the same order."""

    def __init__(self, where: Place) -> None:
        self.rank, self.size, self.local = where.rank, where.size, where.local
        self.timeout_s, self._silence_s = (float(os.environ.get(name) or usual) for name, usual in (_TIMEOUT, _SILENCE))
        self.step = 0
        """The step that this rank is in, for messages."""
        self.settings = SettingsUsed()
        self._odd = ""
        """What another rank uses that this one does not, as soon as it is known."""
        self._closed = 0
        self.parted = ""
        """Why the ranks go on no further together, empty while they do."""
        self._meetings = 0
        self._seen: dict[int, tuple[str, float]] = {}
        self._store = self._joined()
        self._set("process", self.rank, json.dumps([socket.gethostname(), os.getpid()]))
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="planc-alive", daemon=True)
        self._beating.start()
        atexit.register(self._end)

    def _joined(self) -> Any:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it prints a stack for what is told here in a line
        try:
            import torch.distributed as dist
        except ImportError as error:
            raise UsageError("ranks meet through PyTorch: pip install 'planc[torch]'") from error
        try:
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                self.size,
                is_master=self.rank == 0 and not _launcher_keeps_store(),
                timeout=timedelta(seconds=self.timeout_s),
                wait_for_workers=False,
                multi_tenant=True,  # as torch.distributed has it, where a program uses both
            )
        except Exception as error:  # torch has types of its own
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RankError(
                f"rank 0, which keeps the store where ranks meet, does not answer at {where} within {self.timeout_s:g} s: "
                f"{_first_line(error)}"
            ) from error
        return dist.PrefixStore("planc", store)

    @property
    def store(self) -> Any:
        """The store of `torch.distributed`, for its transports."""
        return self._store

    def serial(self) -> int:
        """A number that no other call has had, the same on every rank."""
        self._meetings += 1
        return self._meetings

    # --- meeting

    def meet(self, topic: str, said: str, timeout_s: float | None = None) -> list[str]:
        """What every rank says at this meeting, rank by rank. Raises RankError naming one that does not come.

        Without a `timeout_s` it is the group's; an infinite one waits as long as the others live.
        """
        self._require_together()
        title = f"{self.serial()}.{topic}"
        self._set(title, self.rank, said)
        ends = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        heard, looked = {self.rank: said}, time.monotonic()
        while len(heard) < self.size:
            cause, now = None, time.monotonic()
            if now - looked > _LOOK_S:  # before it is heard what they said last
                cause, looked = self._cause([rank for rank in range(self.size) if rank not in heard]), now
            for rank in range(self.size):
                if rank not in heard and self._has(title, rank):
                    heard[rank] = self._get(title, rank)
            if len(heard) < self.size:
                missing = [rank for rank in range(self.size) if rank not in heard]
                if cause is not None:
                    raise self.part(cause)
                if time.monotonic() > ends:
                    limit = self.timeout_s if timeout_s is None else timeout_s
                    where = self._whereabouts(missing)
                    raise self.end(f"rank {missing[0]} did not come to {topic!r} within {limit:g} s{where}")
                time.sleep(_POLL_S)
        return [heard[rank] for rank in range(self.size)]

    def agree(self, topic: str, values: Mapping[str, str], advice: str = "") -> None:
        """Raise RankError on every rank unless all have the same values; it names the first that differs, and whose."""
        heard = [json.loads(text) for text in self.meet(topic, json.dumps(dict(values)))]
        for name in heard[0]:
            for rank in range(1, self.size):
                if heard[rank].get(name) != heard[0][name]:
                    raise self.part(
                        f"rank {rank} has another {name} than rank 0: {heard[rank].get(name)}, not {heard[0][name]}"
                        + (f"; {advice}" if advice else "")
                    )

    def from_first(self, topic: str, make: Callable[[], str]) -> str:
        """What rank 0 makes, on every rank; others wait as long as it takes. Where it fails, all do."""
        with self.failing():
            said = make() if self.rank == 0 else ""
        return self.meet(topic, said, float("inf"))[0]

    def once(self, topic: str, act: Callable[[], None]) -> None:
        """Let rank 0 act while the others wait; where it fails, all do."""

        def acted() -> str:
            act()
            return "done"

        self.from_first(topic, acted)

    def require_alike(self) -> None:
        """Raise RankError where another rank was seen to use other hyper-parameters."""
        if self._odd:
            raise self.part(self._odd)

    # --- failures

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Tell the others of what goes wrong in the block on this rank, and raise it."""
        self._require_together()
        try:
            yield
        except BaseException as error:
            self.parted = self.parted or f"rank {self.rank}: {_first_line(error)}"
            if not isinstance(error, RankError):
                self._tell("failed", f"{type(error).__name__}: {_first_line(error)}")
            raise

    def _require_together(self) -> None:
        if self.parted:
            raise RankError(f"the ranks have parted ({self.parted}): start them again, from a state that was saved")

    def leave(self) -> None:
        """Tell the others that this rank takes no further steps, and let them end what they are in.

        A rank whose part of the last exchange is done may be ahead of others that still receive; to close its
        connections then would fail their step. It waits for a few seconds at most: they may go on without it.
        """
        self._closed += 1
        self._tell("closed", json.dumps([self._closed, self.step]))
        others, ends = [rank for rank in range(self.size) if rank != self.rank], time.monotonic() + _GRACE_S
        with contextlib.suppress(RankError):
            while not self.parted and time.monotonic() < ends:
                others = [r for r in others if not (self._closings(r)[0] >= self._closed or self._is_gone(r))]
                if not others:
                    return
                time.sleep(_POLL_S)

    def _closings(self, rank: int) -> tuple[int, int]:
        """How many step objects a rank has closed, which all do in the same order, and how many steps the last one took."""
        count, steps = json.loads(self._get("closed", rank)) if self._has("closed", rank) else (0, 0)
        return count, steps

    def lost(self, error: BaseException) -> RankError:
        """Why an exchange failed with `error`: the rank that is to blame, where one can be found in some seconds."""
        ends, others = time.monotonic() + _GRACE_S, [rank for rank in range(self.size) if rank != self.rank]
        while time.monotonic() < ends:
            if (cause := self._cause(others)) is not None:
                return self.part(cause)
            time.sleep(_BEAT_S / 10)
        return self.end(
            f"an exchange in step {self.step} on rank {self.rank} failed or took over {self.timeout_s:g} s"
            f"{self._whereabouts(others)}: {_first_line(error)}"
        )

    def blame(self) -> str | None:
        """Which other rank is gone or has failed, and why; None while all are well."""
        return self._cause([rank for rank in range(self.size) if rank != self.rank])

    def end(self, cause: str) -> RankError:
        """As `part`, where this rank is the first to know: the others are told."""
        self._tell("failed", cause)
        return self.part(cause)

    def part(self, cause: str) -> RankError:
        """The error that says why the ranks go on no further together."""
        self.parted = self.parted or cause
        return RankError(cause)

    def _cause(self, ranks: list[int]) -> str | None:
        try:
            # A rank that fails says so first, and closes its step then: it is asked in the other order.
            closings = {rank: self._closings(rank) for rank in ranks}
            for rank in ranks:
                if self._has("failed", rank) and (text := self._get("failed", rank)):
                    return f"rank {rank} failed: {text}"
            for rank in ranks:
                if self._is_gone(rank):
                    return f"rank {rank} died: its process is gone, or cut off"
            for rank, (count, steps) in closings.items():
                if count > self._closed:  # one that this rank has closed too does not matter: the next is being opened
                    here = f"this is step {self.step} of rank {self.rank}"
                    return f"rank {rank} has closed its step after {steps} steps; {here}"
        except RankError as error:
            return str(error)
        return None

    def _is_gone(self, rank: int) -> bool:
        if not self._has("process", rank):
            return False
        host, process = json.loads(self._get("process", rank))
        if host == socket.gethostname():
            return not _is_running(process)
        beat, now = (self._get("alive", rank) if self._has("alive", rank) else ""), time.monotonic()
        before, since = self._seen.get(rank, ("", now))
        self._seen[rank] = (beat, since if beat == before else now)
        return now - self._seen[rank][1] > self._silence_s

    def _whereabouts(self, ranks: list[int]) -> str:
        """Where the other ranks are, as far as is known."""
        try:
            steps = {r: self._get("alive", r).partition(" ")[2] for r in ranks if self._has("alive", r)}
        except RankError:
            return ""
        known = ", ".join(f"rank {rank} is in step {step}" for rank, step in steps.items())
        absent = ", ".join(f"rank {rank} never came" for rank in ranks if rank not in steps)
        return f" ({'; '.join(filter(None, (known, absent)))}; this rank is in step {self.step})"

    def _end(self) -> None:
        """A thread that is inside of the store's library as the interpreter ends would abort the process. The rank that
        keeps the store lets the others hear what was said there last."""
        self._stop.set()
        self._beating.join()
        self._tell("ended", "so")
        ends = time.monotonic() + _GRACE_S
        with contextlib.suppress(RankError):
            others = [rank for rank in range(self.size) if rank and self._has("process", rank)]
            while self.rank == 0 and time.monotonic() < ends:
                if all(self._has("ended", rank) or self._is_gone(rank) for rank in others):
                    return
                time.sleep(_POLL_S)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(_BEAT_S if count else 0):
            count += 1
            try:
                self._set("alive", self.rank, f"{count} {self.step}")
                self._compare_settings()
            except RankError:
                return

    def _compare_settings(self) -> None:
        if (mine := self.settings.last) is not None:
            self._set("settings", self.rank, json.dumps(mine))
        for rank in range(self.size):
            if rank == self.rank or self._odd or not self._has("settings", rank):
                continue
            step, theirs = json.loads(self._get("settings", rank))
            found = self.settings.differing(step, theirs)
            if found is not None:
                title, other, own = found
                high, low = (rank, self.rank) if rank > self.rank else (self.rank, rank)
                above, below = (other, own) if high == rank else (own, other)
                self._odd = (
                    f"rank {high} has another {title} than rank {low} in step {step}: {above}, not {below}; "
                    "set it alike on every rank"
                )

    # --- the store

    def _tell(self, topic: str, text: str) -> None:
        """Say something as the process may be about to end: who does not hear it sees that this rank is gone."""
        try:
            self._set(topic, self.rank, text)
        except RankError:
            return

    def _set(self, topic: str, rank: int, text: str) -> None:
        with self._reaching():
            self._store.set(f"{topic}/{rank}", text)

    def _has(self, topic: str, rank: int) -> bool:
        with self._reaching():
            return bool(self._store.check([f"{topic}/{rank}"]))

    def _get(self, topic: str, rank: int) -> str:
        with self._reaching():
            found: bytes = self._store.get(f"{topic}/{rank}")
            return found.decode()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except PlancError:
            raise
        except Exception as error:  # torch has types of its own
            keeper = "the launcher" if _launcher_keeps_store() else "rank 0"
            raise RankError(
                f"{keeper}, which keeps the store where ranks meet, is gone: {_first_line(error)}"
            ) from error


def _launcher_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _is_running(process: int) -> bool:
    """Whether a process of this machine runs; one that has ended and was not asked for yet does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):
        return True
    return state not in ("Z", "X")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
