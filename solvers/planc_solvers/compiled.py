"""How the search is compiled: cached on disk, to run without the interpreter's lock.

`outer` functions can be called from Python, `inner` ones only from compiled code, which makes them faster to compile.
A user waits for the first compilation, so that its time matters: arrays come in `packed` objects, and functions of NumPy
that bring text or allocation along (slices that are assigned, `zeros`, `searchsorted`) are written out instead.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy.typing as npt
from numba import njit

from planc.compiled.parts import PartCompiler

P = ParamSpec("P")
R = TypeVar("R")


def outer(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call from Python."""
    return cast(Callable[P, R], njit(cache=True, nogil=True)(function))


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` for calls from compiled code, with which it is cached."""
    compiled = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=PartCompiler)(function)
    return cast(Callable[P, R], compiled)


def is_cached(function: Callable[P, R]) -> bool:
    """Whether there is a file with compiled code of an `outer` function: its first call then takes no time to speak of."""
    folder = cast(Any, function).stats.cache_path
    return folder is not None and any(Path(folder).glob(f"*{function.__name__}-*"))


@inner
def fill(array: npt.NDArray[Any], count: int, value: int) -> None:
    """Set the first `count` entries."""
    for i in range(count):
        array[i] = value
