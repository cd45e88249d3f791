"""Compiled inner loops: numba, with machine code cached on disk and the interpreter lock released while they run."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call; the result keeps the function's type."""
    return cast(Callable[P, R], numba.njit(function, cache=True, nogil=True))
