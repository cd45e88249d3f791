"""Compiled inner loops: numba, with machine code cached on disk and the interpreter lock released while they run.

Compiling is what a first packing waits for, so the arrays come in packed objects, made outside; inner functions are parts
(`planc.compiled`); arrays are copied and added in loops (numba's assignment to a slice compiles the formatting of its error
message); and counters begin with `int64(0)` (a literal is a type of its own for numba, which compiles the functions that
it is given to once more).

numba looks for changes in the file of a cached function only, so the stamp of its cache is that of all files that its
inner functions come from.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

from planc.compiled.parts import PartCompiler

P = ParamSpec("P")
R = TypeVar("R")

int64 = cast(Callable[[int], int], np.int64)
"""The integers of compiled code."""

# Without the counting of references to arrays, which these functions do not make. A third of the time to compile.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": False}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call; the result keeps the function's type. Callable from Python."""
    made = numba.njit(function, cache=True, **_OPTIONS)
    # Not numba's public interface: without these names the cache works, with the stamp of the one file.
    file = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if file is not None and hasattr(file, "_source_stamp"):
        file._source_stamp = _stamp()
    return cast(Callable[P, R], made)


def _stamp() -> tuple[tuple[float, int], ...]:
    """Time of change and size of every file of the packer, and of those that say how its arrays are read."""
    here = Path(__file__).parent
    found = sorted([*here.glob("packing*.py"), *(here.parent / "compiled").glob("*.py")])
    return tuple((stat.st_mtime, stat.st_size) for stat in (file.stat() for file in found))


def inner(function: Callable[P, R]) -> Callable[P, R]:
    """The same for functions that compiled ones alone call: part of their machine code, without a way in from Python."""
    return cast(Callable[P, R], numba.njit(function, no_cpython_wrapper=True, pipeline_class=PartCompiler, **_OPTIONS))
