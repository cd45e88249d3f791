"""How the search is compiled: cached on disk, to run without the interpreter's lock.

`outer` functions can be called from Python, `inner` ones only from compiled code, which makes them faster to compile.
`piece` ones are inner functions that become part of the loop they were cut out of, as if written there.
A user waits for the first compilation, so that its time matters: arrays come in `packed` objects, and functions of NumPy
that bring text or allocation along (slices that are assigned, `zeros`, `searchsorted`) are written out instead.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy.typing as npt
from numba import njit

from planc.compiled.cache import keep_on_disk
from planc.compiled.parts import PartCompiler

P = ParamSpec("P")
R = TypeVar("R")


def outer(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` on its first call from Python."""
    compiled = njit(nogil=True, error_model="numpy")(function)
    keep_on_disk(compiled)
    return cast(Callable[P, R], compiled)


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` for calls from compiled code, with which it is cached."""
    return _part(function, forceinline=False)


def piece(function: Callable[P, R]) -> Callable[P, R]:
    """As `inner`, and written into its caller by LLVM: for what a hot loop does once a step."""
    return _part(function, forceinline=True)


def _part(function: Callable[P, R], forceinline: bool) -> Callable[P, R]:
    compiled = njit(
        nogil=True,
        error_model="numpy",
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        forceinline=forceinline,
        pipeline_class=PartCompiler,
    )(function)
    return cast(Callable[P, R], compiled)


@inner
def fill(array: npt.NDArray[Any], count: int, value: int) -> None:
    """Set the first `count` entries."""
    for i in range(count):
        array[i] = value
