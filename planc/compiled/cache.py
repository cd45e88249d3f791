"""numba's cache of a compiled function on disk, told of changes in all that its machine code is made of.

numba looks for changes in the file of the cached function only. The machine code holds that of the functions which it
calls, too, and the constants that they read, wherever they are written.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

Compiled = Any
"""A function as numba's `njit` returns it."""


def keep_on_disk(function: Compiled) -> None:
    """Cache the machine code of `function`, as numba does, for as long as its `stamp` stays the same."""
    function._cache = _Cache(function)


def is_cached(function: Compiled) -> bool:
    """Whether the machine code of a function kept on disk is there: its first call then takes no time to speak of."""
    return bool(function._cache.holds())


def stamp(function: Compiled) -> str:
    """What changes with the files and options of `function` and of all that it calls, and with the constants they read."""
    waiting, called, constants = [function], {function}, set[str]()
    while waiting:
        python = waiting.pop().py_func
        for name in python.__code__.co_names:
            value = python.__globals__.get(name)
            if isinstance(value, Dispatcher) and value not in called:
                called.add(value)
                waiting.append(value)
            elif isinstance(value, int | float | tuple):
                constants.add(f"{name} = {value!r}")
    files = {_digest(Path(each.py_func.__code__.co_filename)) for each in called}
    files |= {_digest(file) for file in Path(__file__).parent.glob("*.py")}
    options = {repr(sorted(each.targetoptions.items())) for each in called}
    return sha256("\n".join(sorted(files | constants | options)).encode()).hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]
    """Looks at the stamp when machine code is first asked for: all that the function calls is defined by then."""

    def __init__(self, function: Compiled) -> None:
        super().__init__(function.py_func)
        self.function = function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code for these argument types; None where there is none, or it is stale."""
        self._take_stamp()
        return super().load_overload(sig, target_context)

    def holds(self) -> bool:
        """Whether there is any machine code that is not stale."""
        self._take_stamp()
        return bool(self._cache_file._load_index())

    def _take_stamp(self) -> None:
        self._cache_file._source_stamp = stamp(self.function)


@cache
def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()
