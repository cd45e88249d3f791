"""Compiled inner loops: numba, with machine code cached on disk and the interpreter lock released while they run.

Compiling is what a first packing waits for, so these functions copy and add arrays in loops (numba's assignment to a
slice compiles the formatting of its error message), and begin counters with `int64(0)` (a literal is a type of its own
for numba, which compiles the functions that it is given to once more).
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

int64 = cast(Callable[[int], int], np.int64)
"""The integers of compiled code."""

_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call; the result keeps the function's type. Callable from Python."""
    return cast(Callable[P, R], numba.njit(function, cache=True, **_OPTIONS))


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """The same for functions that compiled ones alone call: part of their machine code, without a way in from Python."""
    return cast(Callable[P, R], numba.njit(function, no_cpython_wrapper=True, **_OPTIONS))
