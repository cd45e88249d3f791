"""Operators of planc's own in ONNX Runtime's sessions, through the custom-operator part of its C API.

An operator is a structure of callbacks (`OrtCustomOp` of onnxruntime_c_api.h). Those asked while a session is made and,
for each run, `KernelComputeV2` are Python functions; a run thus takes the interpreter for some ten microseconds.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from threading import Event, get_ident
from typing import Any

import onnxruntime as ort

from planc.cores import cpu_threads
from planc.errors import DeviceError
from planc.runtime.ort.c_api import Allocator, api_table

_API_VERSION = 17
"""Operators say which version's fields they have: this one ends with the range of operator set versions."""

_CREATE_STATUS, _CREATE_DOMAIN, _DOMAIN_ADD, _ADD_DOMAIN = 0, 26, 27, 28
_TENSOR_DATA, _CONTEXT_INPUT, _CONTEXT_OUTPUT, _CONTEXT_STREAM = 51, 90, 91, 193
_CREATE_MEMORY_INFO, _RELEASE_ALLOCATOR, _CONTEXT_ALLOCATOR, _PARALLEL_FOR = 68, 132, 253, 274
"""Positions in the table (`OrtApi` of onnxruntime_c_api.h)."""

_FAIL = 1
_PATIENCE_S = 0.05  # how long a thread of the pool waits for the caller to begin
_LAST_VERSION = (1 << 31) - 1

_Pointer = ctypes.c_void_p
_Out = ctypes.POINTER(ctypes.c_void_p)


class _CustomOp(ctypes.Structure):
    """`OrtCustomOp`; every field but the first is a function pointer."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "create", "name", "provider", "input_type", "input_count", "output_type", "output_count", "compute",
                "destroy", "input_kind", "output_kind", "input_memory", "variadic_input_least", "variadic_input_same",
                "variadic_output_least", "variadic_output_same", "create_v2", "compute_v2", "infer_shape",
                "first_version", "last_version", "may_in_place", "release_may_in_place", "alias_map",
                "release_alias_map",
            )
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """An operator of its own name: the ONNX element types of its operands, the shapes of its outputs, and what a run does
    with the addresses of inputs and outputs, in that order, and the stream.

    With `workspace` bytes the last address is that of memory which ONNX Runtime's allocator lends for the run: scratch of
    the plan where there is one.

    `parts`, on the CPU, are done first, side by side by ONNX Runtime's own threads; `run` then follows on one of them.
    """

    name: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    shapes: Sequence[tuple[int, ...]]
    run: Callable[[Sequence[int], int], None]
    workspace: int = 0
    parts: Sequence[Callable[[Sequence[int]], None]] = ()


def register(
    options: ort.SessionOptions, domain: str, operators: Sequence[Operator], provider: str | None, index: int = 0
) -> None:
    """Make the operators, which run on device `index` of `provider` (None: the CPU), known to the session that `options`
    will open.

    They are kept for the rest of the process. Raises DeviceError where ONNX Runtime does not give its C API away.
    """
    table = api_table()
    address = _options_address(options)
    if table is None or address is None:
        raise DeviceError("this build of ONNX Runtime takes no operators of planc's own: compile with --no-fuse")
    handle = ctypes.c_void_p()
    _call(table, _CREATE_DOMAIN, (ctypes.c_char_p, _Out), domain.encode(), ctypes.byref(handle))
    for operator in operators:
        _call(table, _DOMAIN_ADD, (_Pointer, _Pointer), handle, ctypes.addressof(_structure(operator, provider, index)))
    _call(table, _ADD_DOMAIN, (_Pointer, _Pointer), address, handle)


def _options_address(options: ort.SessionOptions) -> int | None:
    """Where the C object behind Python's options lies: pybind11 keeps it right behind an object's header."""
    if type(type(options)).__name__ != "pybind11_type":
        return None
    return ctypes.c_void_p.from_address(id(options) + object.__basicsize__).value


def _call(table: Any, position: int, types: tuple[Any, ...], *arguments: object) -> None:
    status = ctypes.CFUNCTYPE(_Pointer, *types)(table[position] or 0)(*arguments)
    if status:
        raise DeviceError(f"ONNX Runtime refuses an operator of planc's own (function {position} of its API)")


_KEPT: dict[tuple[str, str | None, int], tuple[_CustomOp, list[Any]]] = {}
"""Structures and their callbacks by name, provider and device, where kernels are loaded: ONNX Runtime holds pointers to
them."""


def _structure(operator: Operator, provider: str | None, index: int) -> _CustomOp:
    key = (operator.name, provider, index)
    if key not in _KEPT:
        calls = _callbacks(operator, provider, index)
        fields = {name: ctypes.cast(call, ctypes.c_void_p).value for name, call in calls.items()}
        # sessions may be destroyed after Python is: a C function that does nothing with its argument
        fields["destroy"] = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
        _KEPT[key] = _CustomOp(version=_API_VERSION, **fields), list(calls.values())
    return _KEPT[key][0]


def _callbacks(operator: Operator, provider: str | None, index: int) -> dict[str, Any]:
    text = ctypes.CFUNCTYPE(_Pointer, _Pointer)
    number = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer)
    count = ctypes.CFUNCTYPE(ctypes.c_size_t, _Pointer)
    at = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_size_t)
    none, one, last = number(lambda _: 0), number(lambda _: 1), number(lambda _: _LAST_VERSION)
    required = at(lambda _, __: 0)
    name = ctypes.create_string_buffer(operator.name.encode())
    where = ctypes.create_string_buffer(provider.encode()) if provider else None
    return {
        "name": text(lambda _: ctypes.addressof(name)),
        "provider": text(lambda _: ctypes.addressof(where) if where else None),
        "input_type": at(lambda _, i: operator.inputs[i]),
        "input_count": count(lambda _: len(operator.inputs)),
        "output_type": at(lambda _, i: operator.outputs[i]),
        "output_count": count(lambda _: len(operator.outputs)),
        "input_kind": required,
        "output_kind": required,
        "input_memory": required,
        "variadic_input_least": one,
        "variadic_input_same": none,
        "variadic_output_least": one,
        "variadic_output_same": none,
        "create_v2": _Create(_create),
        "compute_v2": _Compute(_computation(operator, provider, index)),
        "first_version": one,
        "last_version": last,
    }


_Create = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer, _Pointer, _Out)
_Compute = ctypes.CFUNCTYPE(_Pointer, _Pointer, _Pointer)


def _create(_operator: int, _api: int, _info: int, kernel: Any) -> int | None:
    kernel[0] = 1  # no kernel has anything of its own; null would be an error
    return None


@dataclass(frozen=True)
class _Api:
    """The functions that a run calls."""

    input: Any
    output: Any
    data: Any
    stream: Any
    failed: Any
    allocator: Any
    release_allocator: Any
    parallel: Any


_Part = ctypes.CFUNCTYPE(None, _Pointer, ctypes.c_size_t)


@cache
def _api() -> _Api:
    table = api_table()
    if table is None:
        raise DeviceError("this build of ONNX Runtime does not give its C API away")

    def function(position: int, *types: Any) -> Any:
        return ctypes.CFUNCTYPE(_Pointer, *types)(table[position] or 0)

    return _Api(
        function(_CONTEXT_INPUT, _Pointer, ctypes.c_size_t, _Out),
        function(_CONTEXT_OUTPUT, _Pointer, ctypes.c_size_t, _Pointer, ctypes.c_size_t, _Out),
        function(_TENSOR_DATA, _Pointer, _Out),
        function(_CONTEXT_STREAM, _Pointer, _Out),
        function(_CREATE_STATUS, ctypes.c_int, ctypes.c_char_p),
        function(_CONTEXT_ALLOCATOR, _Pointer, _Pointer, _Out),
        ctypes.CFUNCTYPE(None, _Pointer)(table[_RELEASE_ALLOCATOR] or 0),
        function(_PARALLEL_FOR, _Pointer, _Part, ctypes.c_size_t, ctypes.c_size_t, _Pointer),
    )


@cache
def _memory(kind: str, index: int) -> int:
    """ONNX Runtime's description of the memory of device `index`."""
    table, info, number = api_table(), ctypes.c_void_p(), ctypes.c_int
    if table is None:
        raise DeviceError("this build of ONNX Runtime does not give its C API away")
    kinds = (ctypes.c_char_p, number, number, number, _Out)
    _call(table, _CREATE_MEMORY_INFO, kinds, kind.encode(), 0, index, 0, ctypes.byref(info))
    return info.value or 0


def _lend(api: _Api, context: int, memory: int, size: int, run: Callable[[int], None]) -> None:
    """Run with memory of the session's allocator, which has it back as soon as everything is queued: what is queued next
    on the stream may overwrite it. Raises DeviceError when there is none."""
    found = ctypes.c_void_p()
    if api.allocator(context, memory, ctypes.byref(found)) or not found.value:
        raise DeviceError("ONNX Runtime lends no workspace to an operator of planc's own")
    allocator = ctypes.cast(found.value, ctypes.POINTER(Allocator))
    address = None
    try:
        address = allocator.contents.allocate(allocator, size)
        if not address:
            raise DeviceError(f"there are no {size} bytes of workspace left")
        run(address)
    finally:
        if address:
            allocator.contents.free(allocator, address)
        api.release_allocator(found.value)


def _alone(api: _Api, context: int, threads: int, run: Callable[[], None]) -> None:
    """Run while ONNX Runtime's own threads sleep: where they have nothing to do they turn in a loop for some 50 ms, and
    the threads of a library then share their cores. So each of them gets a part of a parallel loop, in which it waits.

    The calling thread runs, so that the library keeps one team of threads. In a pool of more than `threads` the others
    may take all parts before it comes: they wait for it to begin only shortly, and it runs after the loop.
    """
    if threads == 1:
        run()
        return
    caller, begun, ended, waiting = get_ident(), Event(), Event(), [run]

    def begin() -> None:
        begun.set()
        try:
            waiting.pop()()
        finally:
            ended.set()

    def part(_number: int) -> None:
        if get_ident() != caller:
            if begun.wait(_PATIENCE_S):
                ended.wait()
        elif waiting:  # the caller may come by more than once
            begin()

    _parallel(api, context, threads, part)
    if waiting:
        begin()


def _side_by_side(api: _Api, context: int, parts: Sequence[Callable[[], None]]) -> None:
    """Run all parts by the threads of ONNX Runtime's pool."""
    if len(parts) == 1:
        parts[0]()
    else:
        _parallel(api, context, len(parts), lambda number: parts[number]())


def _parallel(api: _Api, context: int, count: int, part: Callable[[int], None]) -> None:
    """Do the parts of a loop by the threads of ONNX Runtime's pool. What the first of them to fail raises comes when all
    are done."""
    errors: list[BaseException] = []

    def done(_data: int, number: int | None) -> None:
        try:
            part(number or 0)
        except BaseException as error:  # nothing may leave a callback
            errors.append(error)

    callback = _Part(done)
    if api.parallel(context, callback, count, 0, None):
        raise DeviceError("ONNX Runtime runs no parallel loop for an operator of planc's own")
    if errors:
        raise errors[0]


def _computation(operator: Operator, provider: str | None, index: int) -> Callable[[int, int], int | None]:
    """The callback of a run; an error goes back to ONNX Runtime, which raises it."""
    api = _api()
    inputs = range(len(operator.inputs))
    shapes = [(ctypes.c_int64 * len(shape))(*shape) for shape in operator.shapes]
    memory = _memory("Cuda" if provider else "Cpu", index) if operator.workspace else 0
    threads = 1 if provider else cpu_threads()

    def run(context: int, addresses: list[int], stream: int) -> None:
        if operator.workspace:
            _lend(api, context, memory, operator.workspace, lambda at: whole(context, [*addresses, at], stream))
        else:
            whole(context, addresses, stream)

    def whole(context: int, addresses: list[int], stream: int) -> None:
        if operator.parts:
            _side_by_side(api, context, [partial(part, addresses) for part in operator.parts])
        operator.run(addresses, stream)

    def compute(_kernel: int, context: int) -> int | None:
        value, found = ctypes.c_void_p(), ctypes.c_void_p()
        to_value, to_found = ctypes.byref(value), ctypes.byref(found)
        addresses = []
        try:
            status = api.stream(context, to_found)
            stream = found.value or 0
            for i in inputs:
                status = status or api.input(context, i, to_value) or api.data(value, to_found)
                addresses.append(found.value or 0)
            for i, shape in enumerate(shapes):
                status = status or api.output(context, i, shape, len(shape), to_value) or api.data(value, to_found)
                addresses.append(found.value or 0)
            if not status:
                if operator.parts:
                    run(context, addresses, stream)
                else:
                    _alone(api, context, threads, lambda: run(context, addresses, stream))
            return status  # type: ignore[no-any-return]
        except BaseException as error:  # nothing may leave a callback, an interrupt neither
            return api.failed(_FAIL, f"{operator.name}: {error}".encode())  # type: ignore[no-any-return]

    return compute
