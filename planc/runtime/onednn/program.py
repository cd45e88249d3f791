"""Primitives of oneDNN one after the other, which together compute one of planc's own operators.

What they hand on among each other, and the library's scratch, lie in one workspace whose size is known before anything
runs. Operands come and go in the layouts of the graph.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from onnx import TensorProto

from planc.errors import DeviceError
from planc.kernels.device import Strided
from planc.runtime.onednn.constants import DTYPES, Query, Role
from planc.runtime.onednn.library import Argument, Handle, Library
from planc.units import align_up

_ALIGNMENT = 64


@dataclass(frozen=True)
class Memory:
    """A tensor of a program: its memory object and its description."""

    handle: Handle
    kind: Handle


@dataclass(frozen=True)
class _Step:
    """A primitive with its arguments."""

    primitive: Handle
    arguments: "ctypes.Array[Argument]"


@dataclass
class Program:
    """Primitives in order, ready to run once all are added. Methods raise DeviceError for what oneDNN does not have."""

    library: Library
    _operands: list[tuple[Handle, int, int]] = field(default_factory=list)
    _inside: list[tuple[Handle, int]] = field(default_factory=list)
    _scratch: list[Handle] = field(default_factory=list)
    _steps: list[_Step] = field(default_factory=list)
    _numbers: list["ctypes.Array[ctypes.c_float]"] = field(default_factory=list)
    _inside_bytes: int = 0
    _scratch_bytes: int = 0
    _placed: tuple[int, ...] = ()
    _lock: Lock = field(default_factory=Lock)

    @property
    def workspace(self) -> int:
        """Bytes that a run needs beside its operands: the first of them align the rest."""
        needed = self._inside_bytes + self._scratch_bytes
        return needed + _ALIGNMENT if needed else 0

    def operand(self, tensor: Strided, position: int, begin: int = 0) -> Memory:
        """The operand at a position among all of a run's addresses, or what begins at a byte of it."""
        kind = self.library.strided(tensor.dims, tensor.strides, DTYPES[tensor.dtype])
        memory = self.library.memory(kind)
        self._operands.append((memory, position, begin))
        return Memory(memory, kind)

    def spread(self, vector: Memory, rank: int) -> Memory:
        """A vector of channels as it broadcasts against [N, C, ...]: another view of the same bytes."""
        size = self.library.size(vector.kind) // 4
        kind = self.library.strided(
            (1, size, *[1] * (rank - 2)), (size, 1, *[1] * (rank - 2)), DTYPES[TensorProto.FLOAT]
        )
        return self.view(vector, kind)

    def view(self, memory: Memory, kind: Handle) -> Memory:
        """Another description of a tensor's bytes."""
        view = self.library.memory(kind)
        self._operands += [(view, at, begin) for handle, at, begin in self._operands if handle is memory.handle]
        self._inside += [(view, at) for handle, at in self._inside if handle is memory.handle]
        return Memory(view, kind)

    def number(self, value: float, rank: int) -> Memory:
        """A tensor of one element that never changes."""
        return self.constant((ctypes.c_float * 1)(value), (1,) * rank)

    def constant(self, held: "ctypes.Array[ctypes.c_float]", dims: tuple[int, ...]) -> Memory:
        """A tensor without gaps that never changes."""
        self._numbers.append(held)
        lies = Strided.of(dims, TensorProto.FLOAT)
        kind = self.library.strided(dims, lies.strides, DTYPES[TensorProto.FLOAT])
        memory = self.library.memory(kind)
        self.library.place(memory, ctypes.addressof(held))
        return Memory(memory, kind)

    def inside(self, kind: Handle) -> Memory:
        """A tensor of the workspace, for what one primitive hands on to a later one."""
        memory = self.library.memory(kind)
        self._inside.append((memory, self._inside_bytes))
        self._inside_bytes += align_up(self.library.size(kind), _ALIGNMENT)
        return Memory(memory, kind)

    def add(self, description: Handle, arguments: Mapping[int, Memory]) -> None:
        """Run the primitive of a description next, its arguments by role. The library's scratch serves one at a time."""
        filled = [Argument(role, memory.handle) for role, memory in arguments.items()]
        kind = self.library.wanted(description, Query.SCRATCHPAD)
        size = self.library.size(kind)
        if size:
            scratch = self.library.memory(kind)
            self._scratch.append(scratch)
            self._scratch_bytes = max(self._scratch_bytes, align_up(size, _ALIGNMENT))
            filled.append(Argument(Role.SCRATCHPAD, scratch))
        primitive = self.library.made("dnnl_primitive_create", description)
        self._steps.append(_Step(primitive, (Argument * len(filled))(*filled)))

    def reorder(self, source: Memory, target: Memory) -> None:
        """Copy a tensor into another layout next."""
        library = self.library
        description = library.made(
            "dnnl_reorder_primitive_desc_create", source.kind, library.engine, target.kind, library.engine,
            library.attributes,
        )  # fmt: skip
        self.add(description, {Role.SOURCE: source, Role.TARGET: target})

    def laid_out(self, given: Memory, kind: Handle) -> Memory:
        """A tensor in the layout that a primitive wants: itself where it has it, else a copy made next."""
        if self.library.same(kind, given.kind):
            return given
        copy = self.inside(kind)
        self.reorder(given, copy)
        return copy

    def run(self, addresses: Sequence[int]) -> None:
        """Compute from the addresses of inputs and outputs, and of the workspace, last, where there is one."""
        with self._lock:  # sessions of several steps share it
            if tuple(addresses) != self._placed:
                self._place(addresses)
            for step in self._steps:
                self.library.execute(step.primitive, step.arguments)

    def _place(self, addresses: Sequence[int]) -> None:
        place, base = self.library.place, align_up(addresses[-1], _ALIGNMENT)
        for memory, position, begin in self._operands:
            place(memory, addresses[position] + begin)
        for memory, offset in self._inside:
            place(memory, base + offset)
        for memory in self._scratch:
            place(memory, base + self._inside_bytes)
        self._placed = tuple(addresses)


def refuse_reference(library: Library, description: Handle, what: str) -> None:
    """Raise DeviceError where the library's only implementation is its reference, which is slower than any other."""
    if library.implementation(description).startswith("ref"):
        raise DeviceError(f"oneDNN has only its reference implementation of {what}")
