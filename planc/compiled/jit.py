"""Compiled inner loops: numba, with machine code cached on disk and the interpreter lock released while they run.

Compiling is what a first packing waits for, so the arrays come in packed objects, made outside; inner functions are parts
(`planc.compiled`); arrays are copied and added in loops (numba's assignment to a slice compiles the formatting of its error
message); and counters begin with `int64(0)` (a literal is a type of its own for numba, which compiles the functions that
it is given to once more).
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

from planc.compiled.cache import keep_on_disk
from planc.compiled.parts import PartCompiler

P = ParamSpec("P")
R = TypeVar("R")

int64 = cast(Callable[[int], int], np.int64)
"""The integers of compiled code."""

# Without the counting of references to arrays, which these functions do not make. A third of the time to compile.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call; the result keeps the function's type. Callable from Python."""
    made = numba.njit(function, **_OPTIONS)
    keep_on_disk(made)
    return cast(Callable[P, R], made)


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """The same for functions that compiled ones alone call: part of their machine code, without a way in from Python."""
    return cast(Callable[P, R], numba.njit(function, no_cpython_wrapper=True, pipeline_class=PartCompiler, **_OPTIONS))
