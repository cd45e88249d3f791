"""oneDNN's C API through ctypes: the few functions that its primitives take.

The library is the one of the package onednn-cpu-gomp (oneDNN 3, x86-64 Linux, GNU OpenMP, Apache 2.0). Its scratch is
given by the caller (`dnnl_scratchpad_mode_user`), so that it lies where a plan says.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from planc.cores import cpu_threads
from planc.errors import DeviceError
from planc.libraries import onednn_path
from planc.runtime.onednn.constants import Algorithm, Query

_CPU, _IN_ORDER, _USER_SCRATCHPAD = 1, 1, 1
_ANY_TAG = 1

Handle = ctypes.c_void_p


class Argument(ctypes.Structure):
    """`dnnl_exec_arg_t`: which operand, and its memory object."""

    _fields_ = [("role", ctypes.c_int), ("memory", ctypes.c_void_p)]


class Library:
    """The library with an engine and a stream. Calls raise DeviceError with the function's name."""

    def __init__(self, path: Path) -> None:
        # threads that wait soon leave their core to ONNX Runtime's; 0 takes 20 ms more of 590 (ResNet-18, two cores)
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        try:
            self._library = ctypes.CDLL(str(path))
            self._set_threads = ctypes.PyDLL("libgomp.so.1").omp_set_num_threads
        except OSError as error:
            raise DeviceError(f"{path} does not load: {error}") from error
        self._threads = cpu_threads()
        self._set_threads(self._threads)
        self._library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self._library.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
        self.engine = self.made("dnnl_engine_create", ctypes.c_int(_CPU), ctypes.c_size_t(0))
        self._stream = self.made("dnnl_stream_create", self.engine, ctypes.c_uint(_IN_ORDER))
        self.attributes = self._attributes()

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Within, what this thread makes and runs is done by it alone."""
        self._set_threads(1)
        try:
            yield
        finally:
            self._set_threads(self._threads)

    def call(self, name: str, *arguments: object) -> None:
        """A function that returns a status."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise DeviceError(f"oneDNN's {name} fails with status {status}")

    def made(self, name: str, *arguments: object) -> Handle:
        """What a function makes and leaves in its first argument."""
        handle = Handle()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle

    def any_layout(self, dims: Sequence[int], dtype: int) -> Handle:
        """A memory description whose layout the library chooses."""
        return self.made(
            "dnnl_memory_desc_create_with_tag", len(dims), sizes(dims), ctypes.c_int(dtype), ctypes.c_int(_ANY_TAG)
        )

    def strided(self, dims: Sequence[int], strides: Sequence[int], dtype: int) -> Handle:
        """A memory description with strides in elements."""
        return self.made(
            "dnnl_memory_desc_create_with_strides", len(dims), sizes(dims), ctypes.c_int(dtype), sizes(strides)
        )

    def part(self, whole: Handle, dims: Sequence[int], begin: Sequence[int]) -> Handle:
        """The description of a block of a tensor, which begins at `begin`."""
        return self.made("dnnl_memory_desc_create_submemory", whole, sizes(dims), sizes(begin))

    def wanted(self, primitive: Handle, query: Query) -> Handle:
        """The memory description of an operand that a primitive description chose."""
        return Handle(self._library.dnnl_primitive_desc_query_md(primitive, query, 0))

    def implementation(self, primitive: Handle) -> str:
        """The library's name of what computes a primitive description."""
        name = ctypes.c_char_p()
        self.call("dnnl_primitive_desc_query", primitive, ctypes.c_int(Query.IMPLEMENTATION), 0, ctypes.byref(name))
        return (name.value or b"").decode()

    def chained(self, operations: Sequence[tuple[Algorithm, Handle] | tuple[Algorithm, float, float]]) -> Handle:
        """Attributes of a primitive whose result goes through more operations: with a second operand of the description
        given, or of one operand and two numbers."""
        chain = self.made("dnnl_post_ops_create")
        for operation in operations:
            kind = ctypes.c_int(operation[0])
            if len(operation) == 2:
                self.call("dnnl_post_ops_append_binary", chain, kind, operation[1])
            else:
                numbers = (ctypes.c_float(number) for number in operation[1:])
                self.call("dnnl_post_ops_append_eltwise", chain, kind, *numbers)
        attributes = self._attributes()
        self.call("dnnl_primitive_attr_set_post_ops", attributes, chain)
        return attributes

    def _attributes(self) -> Handle:
        """Those of a primitive whose scratch the caller gives."""
        made = self.made("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", made, ctypes.c_int(_USER_SCRATCHPAD))
        return made

    def same(self, a: Handle, b: Handle) -> bool:
        """Whether two memory descriptions are equal."""
        return bool(self._library.dnnl_memory_desc_equal(a, b))

    def size(self, description: Handle) -> int:
        """Bytes of a memory description."""
        return int(self._library.dnnl_memory_desc_get_size(description))

    def memory(self, description: Handle) -> Handle:
        """A memory object without bytes yet."""
        return self.made("dnnl_memory_create", description, self.engine, Handle(None))

    def place(self, memory: Handle, address: int) -> None:
        """Say where the bytes of a memory object are."""
        self.call("dnnl_memory_set_data_handle", memory, Handle(address))

    def execute(self, primitive: Handle, arguments: "ctypes.Array[Argument]") -> None:
        """Run a primitive now; the interpreter's lock is free meanwhile."""
        self.call("dnnl_primitive_execute", primitive, self._stream, len(arguments), arguments)


def sizes(values: Sequence[int]) -> "ctypes.Array[ctypes.c_int64]":
    """A `dnnl_dims_t` of the values."""
    return (ctypes.c_int64 * len(values))(*values)


@cache
def onednn() -> Library | None:
    """The library, None where it is not installed or does not load here."""
    path = onednn_path()
    if path is None:
        return None
    try:
        return Library(path)
    except DeviceError:
        return None
