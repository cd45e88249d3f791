"""A rank whose peers say whatever it says: for what it does on its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from planc.errors import RankError
from planc.runtime.ranks.settings import SettingsUsed


class LoneRank:
    """Stands in for `planc.runtime.ranks.group.RankGroup`; `blamed` is what it says of the others."""

    def __init__(self, rank: int = 0, size: int = 2, timeout_s: float = 5.0) -> None:
        self.rank, self.size, self.local, self.timeout_s = rank, size, 0, timeout_s
        self.step, self.parted, self.told = 0, "", list[str]()
        self.settings = SettingsUsed()
        self.blamed: str | None = None

    @contextmanager
    def failing(self) -> Iterator[None]:
        yield

    def serial(self) -> int:
        return 1

    def meet(self, _topic: str, said: str, _timeout_s: float | None = None) -> list[str]:
        return [said] * self.size

    def agree(self, _topic: str, _values: Mapping[str, str], _advice: str = "") -> None:
        return

    def once(self, _topic: str, act: Callable[[], None]) -> None:
        act()

    def require_alike(self) -> None:
        return

    def leave(self) -> None:
        return

    def blame(self) -> str | None:
        return self.blamed

    def part(self, cause: str) -> RankError:
        self.parted = cause
        return RankError(cause)

    def end(self, cause: str) -> RankError:
        self.told.append(cause)
        return self.part(cause)

    def lost(self, error: BaseException) -> RankError:
        return self.end(str(error))
