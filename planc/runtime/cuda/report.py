"""What of CUDA works on this machine, found by trying it, and what to install where something is missing."""

from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import helper

from planc.errors import DeviceError
from planc.graph.annotations import IR_VERSION
from planc.runtime.cuda.driver import (
    Context,
    allocate,
    allocate_pinned,
    call,
    elapsed_ns,
    new_event,
    new_stream,
    pinned_limits,
)
from planc.runtime.cuda.fused import can_fuse
from planc.runtime.cuda.pieces import first_missing
from planc.runtime.cuda.provider import cuda_session, library_versions, load_libraries, missing_libraries
from planc.units import NS_PER_S

_COPY_BYTES = 64 << 20
_COPIES = 8


class CudaReport(msgspec.Struct, frozen=True, kw_only=True):
    """`usable` when a session ran on the card; `fuses` when element-wise operators are fused there. Rates in bytes/s, 0
    where not measured. `lacks` is the first piece that is missing and `remedy` the command that brings it; `advice` is what
    else was met."""

    usable: bool
    card: str = ""
    driver: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0
    libraries: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    lacks: str = ""
    remedy: str = ""
    out_rate: int = 0
    in_rate: int = 0
    pinned: str = ""
    fuses: bool = False
    advice: tuple[str, ...] = ()


def examine(index: int = 0) -> CudaReport:
    """Try the driver, the libraries, ONNX Runtime's provider and page-locked copies. Never raises for what is missing."""
    advice: list[str] = []
    missing, piece = tuple(missing_libraries()), first_missing()
    if piece is not None:
        return CudaReport(usable=False, missing=missing, lacks=piece.name, remedy=piece.remedy, pinned=pinned_limits())
    try:
        context = Context(index)
    except DeviceError as error:
        advice.append(str(error))
        return CudaReport(usable=False, missing=missing, pinned=pinned_limits(), advice=tuple(advice))
    try:
        return _on_card(context, missing, advice)
    finally:
        context.close()


def _on_card(context: Context, missing: tuple[str, ...], advice: list[str]) -> CudaReport:
    info = context.info()
    out_rate = in_rate = 0
    libraries: dict[str, str] = {}
    try:
        out_rate, in_rate = _copy_rates()
        load_libraries()
        libraries = library_versions()
        _run_something(context.index)
    except DeviceError as error:
        advice.append(str(error))
    return CudaReport(
        usable=not advice,
        card=info.name,
        driver=info.driver_version,
        memory_bytes=info.total_bytes,
        free_bytes=info.free_bytes,
        libraries=libraries,
        missing=missing,
        pinned=pinned_limits(),
        fuses=can_fuse(),
        advice=tuple(advice),
        out_rate=out_rate,
        in_rate=in_rate,
    )


def _copy_rates() -> tuple[int, int]:
    """Bytes per second of large page-locked copies out and in, each direction alone."""
    stream, device, host = new_stream(), 0, 0
    try:
        device, host = allocate(_COPY_BYTES, "measuring copies"), allocate_pinned(_COPY_BYTES, "measuring copies")
        out = _rate(stream, "cuMemcpyDtoHAsync", host, device)
        return out, _rate(stream, "cuMemcpyHtoDAsync", device, host)
    finally:
        if host:
            call("cuMemFreeHost", host)
        if device:
            call("cuMemFree", device)
        call("cuStreamDestroy", stream)


def _rate(stream: Any, function: str, target: int, source: int) -> int:
    start, end = new_event(timing=True), new_event(timing=True)
    call(function, target, source, _COPY_BYTES, stream)
    call("cuEventRecord", start, stream)
    for _ in range(_COPIES):
        call(function, target, source, _COPY_BYTES, stream)
    call("cuEventRecord", end, stream)
    call("cuStreamSynchronize", stream)
    spent = elapsed_ns(start, end)
    for event in (start, end):
        call("cuEventDestroy", event)
    return _COPIES * _COPY_BYTES * NS_PER_S // max(spent, 1)


def _run_something(index: int) -> None:
    """Run one operator on the card and look at the answer. Raises DeviceError."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=IR_VERSION)
    value = np.arange(4, dtype=np.float32)
    (answer,) = cuda_session(model.SerializeToString(), index).run(["y"], {"x": value})
    if not np.array_equal(answer, -value):
        raise DeviceError("ONNX Runtime's CUDA provider runs but computes wrongly: update the driver")
