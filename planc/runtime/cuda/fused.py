"""Kernels of fused operators: written as CUDA C, compiled by NVRTC, run inside ONNX Runtime's sessions.

A model says with ONNX functions what its fused operators compute (`planc.importer.fuse`). Here the functions are taken
out and the nodes become operators of planc's own, one for each function and the types of its operands. Without that,
ONNX Runtime would run their parts one by one, with bytes of its own for what is between them.
"""

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import onnx
import onnxruntime as ort

from planc.errors import DeviceError
from planc.graph.fused import DOMAIN
from planc.runtime.cuda.driver import call, driver
from planc.runtime.cuda.source import BLOCK, PREAMBLE, VECTOR_BYTES, Operand, blocks, source, width
from planc.runtime.ort.c_api import api_table
from planc.runtime.ort.custom_ops import Operator, register

try:
    from cuda.bindings import nvrtc
except ImportError:
    nvrtc = None

_PROVIDER = "CUDAExecutionProvider"


@cache
def can_fuse() -> bool:
    """Whether NVRTC loads and ONNX Runtime takes operators of planc's own."""
    if nvrtc is None or api_table() is None:
        return False
    try:
        status, *_ = nvrtc.nvrtcVersion()
    except RuntimeError:  # cuda-bindings found no library
        return False
    return bool(status == nvrtc.nvrtcResult.NVRTC_SUCCESS)


def with_kernels(model_bytes: bytes, options: ort.SessionOptions) -> bytes:
    """The model to open with `options`: the one given, or, where it has fused operators, one with kernels for them.

    Raises DeviceError where there can be no kernels.
    """
    if DOMAIN.encode() not in model_bytes:
        return model_bytes
    if not can_fuse():
        raise DeviceError(
            "the model has fused operators, whose kernels NVRTC compiles, and it is not there: install it, for example "
            "with pip install 'planc[cuda]', or compile with --no-fuse"
        )
    model = onnx.load_model_from_string(model_bytes)
    register(options, DOMAIN, _make_operators(model), _PROVIDER)
    return bytes(model.SerializeToString())


def _make_operators(model: onnx.ModelProto) -> list[Operator]:
    """Give every fused node an operator for its operands, and take the functions out."""
    functions = {function.name: function for function in model.functions}
    values = {v.name: v.type.tensor_type for v in (*model.graph.input, *model.graph.output)}
    operands = {name: Operand(t.elem_type, tuple(d.dim_value for d in t.shape.dim)) for name, t in values.items()}
    operands |= {i.name: Operand(i.data_type, tuple(i.dims)) for i in model.graph.initializer}
    kernels: dict[str, _Kernel] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            inputs, outputs = (tuple(operands[name] for name in names) for names in (node.input, node.output))
            kernel = _Kernel(functions[node.op_type], inputs, outputs)
            node.op_type = kernel.name
            kernels[node.op_type] = kernel
    del model.functions[:]
    _load({kernel.name: kernel.text(wide=kernel.fits) for kernel in kernels.values()})
    return [_operator(kernel) for kernel in kernels.values()]


class _Kernel:
    """A function with the types of its operands; `name` is made of what it computes."""

    def __init__(self, function: onnx.FunctionProto, inputs: tuple[Operand, ...], outputs: tuple[Operand, ...]) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs
        content = function.SerializeToString(deterministic=True) + f"{inputs} {outputs}".encode()
        self.name = f"fused_{hashlib.sha256(content).hexdigest()[:16]}"
        self.each = width((*inputs, *outputs))
        self.fits = outputs[0].elements % self.each == 0

    def text(self, wide: bool) -> str:
        """CUDA C; where the kernel is not `wide` though it could be, its name says so."""
        name = self.name if wide == self.fits else f"{self.name}_narrow"
        return source(name, self.function, self.inputs, self.outputs, wide)


def _operator(kernel: _Kernel) -> Operator:
    return Operator(
        name=kernel.name,
        inputs=[o.element_type for o in kernel.inputs],
        outputs=[o.element_type for o in kernel.outputs],
        shapes=[o.shape for o in kernel.outputs],
        run=partial(_launch, kernel, blocks(kernel.outputs[0].elements, kernel.each)),
    )


def _launch(kernel: _Kernel, grid: int, addresses: Sequence[int], stream: int) -> None:
    """Queue the kernel: another one where an address is none of a vector."""
    if not grid:
        return
    known, name = _handles(), kernel.name
    if kernel.fits and any(address % VECTOR_BYTES for address in addresses):
        name = f"{kernel.name}_narrow"
        if name not in known:
            _load({name: kernel.text(wide=False)})
    values = (ctypes.c_uint64 * len(addresses))(*addresses)
    first = ctypes.addressof(values)
    pointers = (ctypes.c_void_p * len(addresses))(*range(first, first + 8 * len(addresses), 8))
    status = _cu_launch_kernel()(known[name], grid, 1, 1, BLOCK, 1, 1, 0, stream, pointers, None)
    if status:
        raise DeviceError(f"CUDA's cuLaunchKernel failed with error {status}")


@cache
def _cu_launch_kernel() -> "ctypes._NamedFuncPointer":
    """The driver's function itself: cuda-bindings would pack the arguments anew for every launch."""
    function = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
    number = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, *[number] * 7, *[ctypes.c_void_p] * 3]
    return function


def _load(texts: Mapping[str, str]) -> None:
    """Compile the kernels that the current card does not have yet, as one module, which stays."""
    known = _handles()
    missing = {name: text for name, text in texts.items() if name not in known}
    if missing:
        code = _compiled(PREAMBLE + "".join(missing.values()), _architecture(int(call("cuCtxGetDevice"))))
        module = call("cuModuleLoadData", code)
        known.update({name: int(call("cuModuleGetFunction", module, name.encode())) for name in missing})


def _handles() -> dict[str, int]:
    """Kernels of the current card by name."""
    return _LOADED.setdefault(int(call("cuCtxGetDevice")), {})


_LOADED: dict[int, dict[str, int]] = {}
"""By card; a card's primary context keeps them as long as the process lives."""


def _architecture(device: int) -> str:
    kinds = driver.CUdevice_attribute
    major = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
    minor = call("cuDeviceGetAttribute", kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    return f"sm_{major}{minor}"


def _compiled(text: str, architecture: str) -> bytes:
    """Machine code of CUDA C, whose products and sums are not contracted. Raises DeviceError with the compiler's words."""
    program = _ask("nvrtcCreateProgram", text.encode(), b"fused.cu", 0, [], [])
    options = [f"--gpu-architecture={architecture}".encode(), b"--fmad=false", b"--std=c++17"]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytes(_ask("nvrtcGetProgramLogSize", program))
            _ask("nvrtcGetProgramLog", program, log)
            raise DeviceError(f"NVRTC refuses a fused operator:\n{log.decode(errors='replace')}\n{text}")
        code = bytes(_ask("nvrtcGetCUBINSize", program))
        _ask("nvrtcGetCUBIN", program, code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def _ask(name: str, *arguments: object) -> Any:
    status, *results = getattr(nvrtc, name)(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(f"{name} failed: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
    return results[0] if results else 0
