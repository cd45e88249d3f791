"""GELU and its gradient by oneDNN."""

import ctypes

from onnx import TensorProto

from planc.kernels.device import GeluKernel, Strided
from planc.runtime.onednn.constants import Algorithm, Prop, Role
from planc.runtime.onednn.library import Library
from planc.runtime.onednn.parts import Parts, elements
from planc.runtime.onednn.program import Memory, Program, refuse_reference


def gelu(library: Library, kernel: GeluKernel) -> Parts:
    """The programs of y from x, or of dx from dy and x. Raises DeviceError where oneDNN has none."""
    with library.one_thread():
        return Parts(library, [_part(library, kernel, part) for part in elements(kernel.size)])


def _part(library: Library, kernel: GeluKernel, part: range) -> Program:
    program, flat = Program(library), Strided((len(part),), (1,), TensorProto.FLOAT)
    tensors = [program.operand(flat, position, 4 * part.start) for position in range(2 + kernel.gradient)]
    algorithm = Algorithm.GELU_TANH if kernel.tanh else Algorithm.GELU
    how, zero, kind = ctypes.c_int(algorithm), ctypes.c_float(0), tensors[0].kind
    description = library.made(
        "dnnl_eltwise_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_TRAINING), how,
        kind, kind, zero, zero, library.attributes,
    )  # fmt: skip
    arguments: dict[int, Memory] = {Role.SOURCE: tensors[0], Role.TARGET: tensors[-1]}
    if kernel.gradient:
        description = library.made(
            "dnnl_eltwise_backward_primitive_desc_create", library.engine, how, kind, kind, kind, zero, zero,
            description, library.attributes,
        )  # fmt: skip
        arguments = {Role.D_TARGET: tensors[0], Role.SOURCE: tensors[1], Role.D_SOURCE: tensors[2]}
    refuse_reference(library, description, "GELU")
    program.add(description, arguments)
    return program
