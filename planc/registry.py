"""Tables that functions add themselves to by name: rules, handlers, devices."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from planc.errors import InternalError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Registry(dict[K, V], Generic[K, V]):
    """A dictionary in which no name is taken twice."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def add(self, names: Iterable[K], entry: V) -> None:
        """Register `entry` under each of `names`. Raises InternalError when one is taken."""
        for name in names:
            if name in self:
                raise InternalError(f"{self._what} {name!r} is registered twice: by {self[name]!r} and by {entry!r}")
            self[name] = entry
