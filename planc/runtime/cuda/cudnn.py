"""cuDNN's graph API through NVIDIA's frontend (the package `nvidia-cudnn-frontend`): engines listed, pinned, run.

The frontend finds the cuDNN that ONNX Runtime has loaded. It takes bare addresses, and what it queues can be recorded in
CUDA graphs. An engine goes by the name that cuDNN gives it, made of its number and its knobs: together with cuDNN's version
and the operation it always means the same kernel.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any

from onnx import TensorProto

from planc.errors import DeviceError
from planc.kernels.device import CudnnKernel, CudnnTensor
from planc.runtime.cuda.driver import call

_INSTALL = "convolutions and attention on a card want NVIDIA's cuDNN frontend: pip install 'planc[cuda]'"

ADDRESS_ALIGNMENT = 16
"""Bytes that every operand's address must be a multiple of: cuDNN's kernels load vectors."""

_SEARCH = "LD_LIBRARY_PATH"
"""Where the frontend looks for cuDNN first, when it is imported."""

_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BFLOAT16",
    TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOLEAN",
}  # fmt: skip


@cache
def frontend() -> Any:
    """The frontend's module, over the cuDNN that is loaded already. Raises DeviceError where it is not installed."""
    known = os.environ.get(_SEARCH)
    try:
        os.environ[_SEARCH] = ":".join(filter(None, (_loaded_folder(), known)))
        return importlib.import_module("cudnn")
    except (ImportError, OSError) as error:
        raise DeviceError(f"{_INSTALL} ({error})") from error
    finally:
        os.environ.pop(_SEARCH)
        os.environ.update({} if known is None else {_SEARCH: known})


def _loaded_folder() -> str | None:
    """Where the cuDNN lies that ONNX Runtime uses: a second one in the process would mix with its parts."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = (
        line.split(maxsplit=5)[5] for line in lines if line.endswith("/libcudnn.so.9") or "/libcudnn.so.9." in line
    )
    return next((str(Path(path).parent) for path in paths), None)


def has_frontend() -> bool:
    """Whether the frontend is installed and finds cuDNN."""
    try:
        return bool(frontend().backend_version())
    except (DeviceError, RuntimeError):
        return False


def versions() -> dict[str, str]:
    """Of the frontend, which lists engines; cuDNN's own is told by the provider's libraries."""
    return {"cudnn_frontend": str(frontend().__version__)}


class BuiltGraph:
    """A kernel's graph with one engine, ready to run. `workspace` is in bytes."""

    def __init__(self, graph: Any, tensors: Sequence[Any], engine: str, workspace: int, title: str) -> None:
        self._graph, self._uids = graph, [t.get_uid() for t in tensors]
        self.engine, self.workspace, self._title = engine, workspace, title

    def run(self, addresses: Sequence[int], stream: int) -> None:
        """Queue it: addresses of inputs, outputs and, if there is any, the workspace. Raises DeviceError."""
        operands = addresses[: len(self._uids)]
        if any(address % ADDRESS_ALIGNMENT for address in operands):
            raise DeviceError(f"{self._title}: an operand does not lie at a multiple of {ADDRESS_ALIGNMENT} bytes")
        handle = _handle(stream)
        workspace = addresses[-1] if self.workspace else 0
        self._graph.execute(dict(zip(self._uids, operands, strict=True)), workspace, handle=handle)


@cache
def _handle_of(_card: int, _thread: int) -> Any:
    return frontend().create_handle()


def _handle(stream: int) -> Any:
    """This thread's handle on the current card, for a stream."""
    handle = _handle_of(int(call("cuCtxGetDevice")), get_ident())
    frontend().set_stream(handle=handle, stream=stream)
    return handle


_BUILT: dict[tuple[int, str, str], BuiltGraph] = {}
"""By card, function name and engine: building takes from milliseconds up to seconds."""


def built(name: str, kernel: CudnnKernel, engine: str = "") -> BuiltGraph:
    """The kernel of the call `name` by an engine, without one by that which cuDNN's heuristics put first.

    Raises DeviceError when cuDNN has no such engine, or none at all that repeats its bits.
    """
    key = (int(call("cuCtxGetDevice")), name, engine)
    if key not in _BUILT:
        _BUILT[key] = _pinned(name, kernel, engine) if engine else next(candidates(name, kernel), None) or _none(name)
    return _BUILT[key]


def forget() -> None:
    """Build every graph anew from now on."""
    _BUILT.clear()


def candidates(name: str, kernel: CudnnKernel) -> Iterator[BuiltGraph]:
    """The kernel by every engine that cuDNN's heuristics name, best first, those left out that cannot run here or whose
    notes say that they do not repeat their bits."""
    seen = set()
    graph, _, count = _listed(kernel)
    for index in range(count):
        engine = str(graph.get_plan_name_at_index(index))
        if engine in seen:
            continue
        seen.add(engine)
        with contextlib.suppress(DeviceError):
            yield _pinned(name, kernel, engine)


def _listed(kernel: CudnnKernel) -> tuple[Any, list[Any], int]:
    """A graph of the kernel with its engines listed, its tensors, and how many engines there are."""
    cudnn = frontend()
    graph, tensors = _described(kernel)
    try:
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        graph.deselect_numeric_notes([cudnn.numerical_note.NONDETERMINISTIC])
        return graph, tensors, int(graph.get_execution_plan_count())
    except cudnn.cudnnGraphNotSupportedError:
        return graph, tensors, 0


def _pinned(name: str, kernel: CudnnKernel, engine: str) -> BuiltGraph:
    """The kernel by the engine of that name. Raises DeviceError when cuDNN does not have it."""
    reason = "its heuristics no longer list it"
    graph, tensors, count = _listed(kernel)
    for index in range(count):
        if graph.get_plan_name_at_index(index) != engine:
            continue
        try:
            graph.build_plan_at_index(index)
            workspace = int(graph.get_workspace_size_plan_at_index(index))
        except (
            Exception
        ) as error:  # the frontend raises several types for an engine that is left out or does not run here
            reason = _first_line(error)
            break
        return BuiltGraph(graph, tensors, engine, max(0, workspace), name)
    raise DeviceError(
        f"cuDNN {frontend().backend_version()} does not compute {name} by the engine {engine}, which the plan pins: "
        f"profile and compile again on this machine (planc profile, planc compile) ({reason})"
    )


def _described(kernel: CudnnKernel) -> tuple[Any, list[Any]]:
    """The frontend's graph of a kernel, down to the operation graph, and its tensors: inputs, then outputs."""
    cudnn = frontend()
    handle = _handle_of(int(call("cuCtxGetDevice")), get_ident())
    graph = cudnn.pygraph(
        handle=handle,
        io_data_type=_data_type(kernel.inputs[0].dtype),
        intermediate_data_type=_data_type(kernel.compute),
        compute_data_type=_data_type(kernel.compute),
    )
    inputs = [_tensor(graph, tensor) for tensor in kernel.inputs]
    outputs = list(kernel.build(graph, inputs))
    for made, wanted in zip(outputs, kernel.outputs, strict=True):
        made.set_output(True).set_dim(list(wanted.dims)).set_stride(list(wanted.strides))
        made.set_data_type(_data_type(wanted.dtype))
    graph.validate()
    graph.build_operation_graph()
    return graph, [*inputs, *outputs]


def _tensor(graph: Any, tensor: CudnnTensor) -> Any:
    return graph.tensor(
        name=tensor.name, dim=list(tensor.dims), stride=list(tensor.strides), data_type=_data_type(tensor.dtype)
    )


def _data_type(dtype: int) -> Any:
    return getattr(frontend().data_type, _TYPES[dtype])


def _none(name: str) -> BuiltGraph:
    raise DeviceError(f"cuDNN {frontend().backend_version()} has no engine for {name} that repeats its bits")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
