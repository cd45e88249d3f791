"""How the search is compiled: cached on disk, without the interpreter's lock.

`outer` functions can be called from Python, `inner` ones only from compiled code, which halves their compile time.
Compiled code reads an array out of a tuple at the price of its reference count, and a call passes every array of the
tuples it is given: hot loops therefore name their arrays once, before the loop, and call nothing inside.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def outer(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call from Python."""
    return cast(Callable[P, R], njit(cache=True, nogil=True)(function))


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` for calls from compiled code."""
    compiled = njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return cast(Callable[P, R], compiled)
