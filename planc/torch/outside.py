"""Values that a step reads from Python and keeps as they were: noticed when they change afterwards.

A graph holds numbers of closures, globals and attributes, and tensors that are neither parameters nor buffers, as they
were when it was traced.
"""

import dis
import functools
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from planc.errors import UsageError

_PLAIN = (bool, int, float, str, type(None))
_CONTAINERS = (list, tuple, dict)
_MOST = 64
"""Elements of a container that is compared before every step."""

_INTERNAL = frozenset(vars(torch.nn.Module()))
_LIBRARIES = (*map(sysconfig.get_path, ("purelib", "stdlib")), torch.__path__[0], str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class _Value:
    """A value, where it is read, and how to read it again."""

    what: str
    read: Callable[[], Any]
    then: Any

    def changed(self) -> bool:
        """Whether it is another one now."""
        try:
            return bool(_kept(self.read()) != self.then)
        except (AttributeError, KeyError, ValueError):  # deleted, or a cell that was emptied
            return True


@dataclass
class OutsideValues:
    """What a traced step read from Python."""

    values: list[_Value] = field(default_factory=list)
    tensors: list[tuple[torch.Tensor, int]] = field(default_factory=list)

    def add_constants(self, tensors: Iterator[torch.Tensor]) -> None:
        """Note tensors that became constants of the graph."""
        self.tensors += [(tensor, tensor._version) for tensor in tensors]

    def check(self) -> None:
        """Raise UsageError for the first value that changed since the step was traced."""
        for value in self.values:
            if value.changed():
                raise UsageError(
                    f"{value.what} was changed, and the compiled step goes on with what it was: pass it as a float or a "
                    "tensor of the batch, which may change from step to step, make a tensor a buffer, or compile again"
                )
        for tensor, version in self.tensors:
            if tensor._version != version:
                raise UsageError(
                    f"a tensor of shape {list(tensor.shape)} that the step reads, but that is neither a parameter nor a "
                    "buffer of the module, was written in place, and the compiled step goes on with what it was: register "
                    "it as a buffer and call refresh(), pass it in the batch, or compile again"
                )


@contextmanager
def noted_values(model: torch.nn.Module, loss: Callable[..., Any]) -> Iterator[OutsideValues]:
    """Within, the step is traced; afterwards what is yielded knows what was read."""
    found = OutsideValues()
    with _attribute_reads(model, loss) as attributes:
        yield found
    found.values += [v for v in attributes if not v.changed()]
    forwards = {type(m): type(m).forward for m in model.modules() if not _is_library(type(m))}
    for function in (loss, *forwards.values()):
        found.values += _values_of(function, set())


def _kept(value: Any) -> Any:
    """What tells a value from a later one; None where it is nothing that a graph holds, or too large."""
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if isinstance(value, _CONTAINERS):
        parts = [*value.values()] if isinstance(value, dict) else value
        small = len(parts) <= _MOST and all(isinstance(v, _PLAIN) for v in parts)
        return (type(value), [*value], [*parts]) if small else None
    return (type(value), value) if isinstance(value, _PLAIN) else None


def _value(what: str, read: Callable[[], Any]) -> Iterator[_Value]:
    held = read()
    then = _kept(held)
    if then is not None and held is not None:
        yield _Value(what, functools.partial(_first, read, held), then)


def _first(read: Callable[[], Any], _held: Any) -> Any:
    """Read again; the old value lives on, so that no new tensor takes its place in memory."""
    return read()


# --- attributes of modules


@contextmanager
def _attribute_reads(model: torch.nn.Module, loss: Callable[..., Any]) -> Iterator[list[_Value]]:
    """Afterwards the list has the plain attributes of the user's own modules that were read within."""
    parts = [model, loss] if isinstance(loss, torch.nn.Module) else [model]
    names = {id(m): (m, name) for part in parts for name, m in part.named_modules() if not _is_library(type(m))}
    seen, found = dict[tuple[int, str], None](), list[_Value]()
    with ExitStack() as stack:
        for kind in {type(m) for m, _ in names.values()}:
            stack.enter_context(patch.object(kind, "__getattribute__", _recording(kind, names, seen)))
        yield found
    for key, name in seen:
        module, path = names[key]
        if name in vars(module):
            what = f"attribute {name!r} of module {path or type(module).__name__!r}"
            found += _value(what, functools.partial(getattr, module, name))


def _recording(kind: type, names: Mapping[int, Any], seen: dict[tuple[int, str], None]) -> Callable[[Any, str], Any]:
    plain: Any = kind.__getattribute__

    def get(self: Any, name: str) -> Any:
        found = plain(self, name)
        own = id(self) in names and not name.startswith("_") and name not in _INTERNAL
        if own and isinstance(found, (*_PLAIN, *_CONTAINERS, torch.Tensor)):
            seen[id(self), name] = None
        return found

    return get


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "planc")


# --- closures and globals of functions


def _values_of(function: Any, visited: set[Any]) -> Iterator[_Value]:
    """What a function of the user's reads around it, and the functions that it calls by name."""
    if isinstance(function, functools.partial):
        yield from _values_of(function.func, visited)
        return
    owner = getattr(function, "__self__", None)
    if isinstance(function, types.MethodType):
        function = function.__func__
    elif not isinstance(function, types.FunctionType):
        owner, function = function, type(function).__call__
    if not isinstance(function, types.FunctionType) or function in visited or _is_torchs(function):
        return
    visited.add(function)
    reads = _Reads(function.__code__)
    where = f"{function.__qualname__} reads"
    if owner is not None and not isinstance(owner, torch.nn.Module):
        yield from _attributes(f"self, as {where}", owner, reads)
    for name, read in _surroundings(function, reads):
        held = read()
        if isinstance(held, types.FunctionType):
            yield from _values_of(held, visited)
        elif isinstance(held, (*_PLAIN, *_CONTAINERS, torch.Tensor)):
            yield from _value(f"{name!r}, which {where},", read)
        elif not isinstance(held, type):
            yield from _attributes(f"{name!r}, as {where}", held, reads)


def _attributes(what: str, owner: Any, reads: "_Reads") -> Iterator[_Value]:
    for name in reads.attributes & set(getattr(owner, "__dict__", ())) - _INTERNAL:
        yield from _value(f"attribute {name!r} of {what},", functools.partial(getattr, owner, name))


def _surroundings(function: types.FunctionType, reads: "_Reads") -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names and readers of the cells and globals of a function that have a value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents  # noqa: B018 - an empty one raises
        except ValueError:
            continue
        yield name, functools.partial(getattr, cell, "cell_contents")
    for name in reads.globals & set(function.__globals__):
        yield name, functools.partial(function.__globals__.__getitem__, name)


def _is_torchs(function: types.FunctionType) -> bool:
    return function.__code__.co_filename.startswith(_LIBRARIES)


class _Reads:
    """The globals and attributes that code loads, inner functions included."""

    def __init__(self, code: types.CodeType) -> None:
        loaded = [(i.opname, str(i.argval)) for i in dis.get_instructions(code)]
        self.globals = {name for kind, name in loaded if kind in ("LOAD_GLOBAL", "LOAD_NAME")}
        self.attributes = {name for kind, name in loaded if kind in ("LOAD_ATTR", "LOAD_METHOD")}
        for inner in (c for c in code.co_consts if isinstance(c, types.CodeType)):
            more = _Reads(inner)
            self.globals |= more.globals
            self.attributes |= more.attributes
