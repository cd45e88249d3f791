"""Max-pool and average-pool by oneDNN."""

import ctypes
from dataclasses import replace

from onnx import TensorProto

from planc.errors import DeviceError
from planc.kernels.device import PoolKernel
from planc.runtime.onednn.constants import DTYPES, Algorithm, Prop, Query, Role
from planc.runtime.onednn.library import Handle, Library, sizes
from planc.runtime.onednn.program import Memory, Program, refuse_reference


def pooling(library: Library, kernel: PoolKernel) -> Program:
    """The program of a pool or of its gradient. Raises DeviceError where oneDNN has none.

    Operands are x, y and the places of the maxima forward, dy, places and dx in the gradient, places for max-pool alone:
    these are the library's workspace, which counts places within a window in row-major order.
    """
    forward, backward = _descriptions(library, kernel)
    description = backward if kernel.gradient else forward
    refuse_reference(library, description, "a pool")
    program = Program(library)
    arguments: dict[int, Memory] = {}
    if kernel.gradient:
        arguments[Role.D_TARGET] = program.operand(kernel.y, 0)
        arguments[Role.D_SOURCE] = program.operand(kernel.x, 1 + kernel.maximum)
    else:
        arguments[Role.SOURCE] = program.operand(kernel.x, 0)
        arguments[Role.TARGET] = program.operand(kernel.y, 1)
    if kernel.maximum:
        places = program.operand(replace(kernel.y, dtype=TensorProto.UINT8), 1 if kernel.gradient else 2)
        if not library.same(places.kind, library.wanted(forward, Query.WORKSPACE)):
            raise DeviceError("oneDNN keeps the places of a max-pool in a layout of its own")
        arguments[Role.WORKSPACE] = places
    program.add(description, arguments)
    return program


def _descriptions(library: Library, kernel: PoolKernel) -> tuple[Handle, Handle]:
    """Of the forward pass and of the gradient."""
    x, y = (library.strided(o.dims, o.strides, DTYPES[o.dtype]) for o in (kernel.x, kernel.y))
    average = Algorithm.AVERAGE_WITH_PADDING if kernel.padded else Algorithm.AVERAGE
    how = ctypes.c_int(Algorithm.MAX_POOL if kernel.maximum else average)
    window = [sizes(v) for v in (kernel.strides, kernel.kernel, [d - 1 for d in kernel.dilations], *kernel.pads)]
    forward = library.made(
        "dnnl_pooling_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_TRAINING), how,
        x, y, *window, library.attributes,
    )  # fmt: skip
    backward = library.made(
        "dnnl_pooling_backward_primitive_desc_create", library.engine, how, x, y, *window, forward, library.attributes
    )
    return forward, backward
