"""Gives a model's operators of planc's own oneDNN's kernels, before a session on the CPU opens it."""

import math
from collections.abc import Iterator

import onnx
import onnxruntime as ort

from planc.errors import DeviceError
from planc.kernels import DOMAIN, Call
from planc.kernels.device import (
    AdamKernel,
    AddedRowsKernel,
    AttentionKernel,
    BatchNormKernel,
    ConvolutionKernel,
    CpuKernel,
    GeluKernel,
    LayerNormKernel,
    PoolKernel,
)
from planc.kernels.engines import chosen, read_engines
from planc.runtime.onednn.adam import adam
from planc.runtime.onednn.added_rows import AddedRows
from planc.runtime.onednn.attention import attention
from planc.runtime.onednn.batch_norm import batch_norm
from planc.runtime.onednn.convolution import convolution
from planc.runtime.onednn.gelu import gelu
from planc.runtime.onednn.layer_norm import layer_norm
from planc.runtime.onednn.library import Library, onednn
from planc.runtime.onednn.parts import Parts
from planc.runtime.onednn.pooling import pooling
from planc.runtime.onednn.program import Program
from planc.runtime.ort.custom_ops import Operator, register
from planc.runtime.ort.own import declared_types, replaced

Computation = Program | Parts | AddedRows

DIRECT, BLOCKED = "direct", "blocked"
"""Engines of a convolution: on the images as they lie, or in the library's layouts, into which they are copied."""

_FEW_PLACES = 49
"""Of an image: below, copies cost less than the library's own layouts gain (7x7 and 4x4 of ResNet-18, two cores)."""


def with_kernels(model_bytes: bytes, options: ort.SessionOptions) -> bytes:
    """The model to open with `options`: the one given, or one whose operators of planc's domain are oneDNN's.

    Where oneDNN is not installed, the functions of these operators run as they stand.
    """
    if DOMAIN.encode() not in model_bytes:  # the library takes 50 MiB: load it for models that need it
        return model_bytes
    library = onednn()
    if library is None:
        return model_bytes
    model = onnx.load_model_from_string(model_bytes)
    operators = _operators(library, model)
    if operators:
        register(options, DOMAIN, operators, None)
    return bytes(model.SerializeToString())


def workspace_bytes(model_bytes: bytes) -> int:
    """The largest workspace that one of the model's operators takes."""
    library = onednn() if DOMAIN.encode() in model_bytes else None
    if library is None:
        return 0
    operators = _operators(library, onnx.load_model_from_string(model_bytes))
    return max((operator.workspace for operator in operators), default=0)


def _operators(library: Library, model: onnx.ModelProto) -> list[Operator]:
    """Those that now take the place of the model's nodes; it says which engines compute them."""
    engines = chosen(read_engines(model))
    return replaced(
        model, declared_types(model), lambda name, call, _: _operator(library, name, call, engines.get(name))
    )


_made: dict[tuple[str, str | None], Operator | None] = {}
"""Operators by the names of their functions, which say what they compute, and their engines: primitives are costly to
make."""


def _operator(library: Library, name: str, call: Call, engine: str | None) -> Operator | None:
    if (name, engine) not in _made:
        _made[name, engine] = _new_operator(library, name, call, engine)
    return _made[name, engine]


def _new_operator(library: Library, name: str, call: Call, engine: str | None) -> Operator | None:
    made = next(programs_of(library, call, engine), None)
    if made is None and engine is not None:
        raise DeviceError(f"{call.where}: the plan pins engine {engine!r}, which oneDNN has not here: compile again")
    if made is None:  # an operator, a size or a type that this processor has no kernel for: the function runs
        return None
    used, program = made
    last = program.run if isinstance(program, Program) else program.join
    return Operator(
        name=f"{name}_onednn_{used}",
        inputs=[t.dtype for t in call.inputs],
        outputs=[t.dtype for t in call.outputs],
        shapes=[t.shape for t in call.outputs],
        run=lambda addresses, _stream: last(addresses),
        workspace=program.workspace,
        parts=() if isinstance(program, Program) else program.side_by_side,
    )


def programs_of(library: Library, call: Call, only: str | None = None) -> Iterator[tuple[str, Computation]]:
    """The programs that compute a call, by engine, or that of one engine; the first is what runs where nothing was
    measured."""
    kernel = call.operator.cpu(call) if call.operator.cpu else None
    for engine in _engines(kernel):
        try:
            if only in (None, engine):
                yield engine, _program(library, kernel, engine)
        except DeviceError:
            continue


def _engines(kernel: CpuKernel | None) -> tuple[str, ...]:
    if kernel is None:
        return ()
    if not isinstance(kernel, ConvolutionKernel):
        return (DIRECT,)
    x, _, y = kernel.operands
    last = x.strides[1] == 1
    few = min(_places(x.dims), _places(y.dims)) <= _FEW_PLACES
    return (DIRECT, BLOCKED) if last and not few else (BLOCKED, DIRECT)


def _places(dims: tuple[int, ...]) -> int:
    return math.prod(dims[2:])


def _program(library: Library, kernel: CpuKernel | None, engine: str) -> Computation:
    match kernel:
        case ConvolutionKernel():
            return convolution(library, kernel, direct=engine == DIRECT)
        case BatchNormKernel():
            return batch_norm(library, kernel)
        case PoolKernel():
            return pooling(library, kernel)
        case LayerNormKernel():
            return layer_norm(library, kernel)
        case GeluKernel():
            return gelu(library, kernel)
        case AttentionKernel():
            return attention(library, kernel)
        case AdamKernel():
            return adam(library, kernel)
        case AddedRowsKernel():
            return AddedRows(kernel)
    raise DeviceError("oneDNN has no program for this operator")
