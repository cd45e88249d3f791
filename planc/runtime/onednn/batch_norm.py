"""Batch-norm in training by oneDNN, with the ReLU, or the addition and ReLU, behind it."""

import ctypes

from planc.kernels.device import BatchNormKernel, Strided
from planc.runtime.onednn.chain import Chained, chain
from planc.runtime.onednn.constants import DTYPES, Algorithm, Norm, Prop, Query, Role
from planc.runtime.onednn.library import Handle, Library
from planc.runtime.onednn.program import Memory, Program, refuse_reference


def batch_norm(library: Library, kernel: BatchNormKernel) -> Program:
    """The program of the forward pass or of the gradient. Raises DeviceError where oneDNN has none."""
    return _gradient(library, kernel) if kernel.gradient else _forward(library, kernel)


def _descriptions(library: Library, kernel: BatchNormKernel, flags: Norm) -> tuple[Handle, Handle]:
    """Of the forward pass and of the gradient."""
    kind = library.strided(kernel.x.dims, kernel.x.strides, DTYPES[kernel.x.dtype])
    epsilon, given = ctypes.c_float(kernel.epsilon), ctypes.c_uint(flags)
    forward = library.made(
        "dnnl_batch_normalization_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_TRAINING),
        kind, kind, epsilon, given, library.attributes,
    )  # fmt: skip
    backward = library.made(
        "dnnl_batch_normalization_backward_primitive_desc_create", library.engine, ctypes.c_int(Prop.BACKWARD),
        kind, kind, kind, epsilon, given, forward, library.attributes,
    )  # fmt: skip
    return forward, backward


def _vector(program: Program, kernel: BatchNormKernel, position: int) -> Memory:
    return program.operand(Strided((kernel.x.dims[1],), (1,), kernel.x.dtype), position)


def _forward(library: Library, kernel: BatchNormKernel) -> Program:
    """Inputs x, scale, bias, [residual]; outputs y, mean, variance. The library's mark of where its ReLU let through is
    thrown away: the gradient sees it."""
    program, n, alone = Program(library), 3 + kernel.added, kernel.relu and not kernel.added
    flags = Norm.SCALE | Norm.SHIFT | (Norm.RELU if alone else Norm(0))
    description, _ = _descriptions(library, kernel, flags)
    refuse_reference(library, description, "a batch-norm")
    y = program.operand(kernel.x, n)
    arguments: dict[int, Memory] = {Role.SOURCE: program.operand(kernel.x, 0), Role.TARGET: y}
    for position, role in ((1, Role.SCALE), (2, Role.SHIFT), (n + 1, Role.MEAN), (n + 2, Role.VARIANCE)):
        arguments[role] = _vector(program, kernel, position)
    if alone:
        arguments[Role.WORKSPACE] = program.inside(library.wanted(description, Query.WORKSPACE))
    program.add(description, arguments)
    if kernel.added:
        relu = [Chained(Algorithm.RELU)] if kernel.relu else []
        chain(program, y, [Chained(Algorithm.ADD, program.operand(kernel.x, 3)), *relu], y)
    return program


def _gradient(library: Library, kernel: BatchNormKernel) -> Program:
    """Inputs dy, x, scale, bias, mean, variance, [y]; outputs dx, dscale, dbias, [dresidual]."""
    program, n = Program(library), 6 + kernel.added
    _, description = _descriptions(library, kernel, Norm.SCALE | Norm.SHIFT)
    refuse_reference(library, description, "a batch-norm's gradient")
    dy, x, dx = (program.operand(kernel.x, position) for position in (0, 1, n))
    scale, bias, mean, variance = (_vector(program, kernel, position) for position in range(2, 6))
    if kernel.added:
        dresidual = program.operand(kernel.x, n + 3)
        _masked_by_result(program, program.operand(kernel.x, 6), dy, dresidual)
        dy = dresidual
    elif kernel.relu:
        _masked(program, kernel, x, dy, dx, (scale, bias, mean, variance))
        dy = dx
    program.add(
        description,
        {
            Role.SOURCE: x, Role.D_TARGET: dy, Role.D_SOURCE: dx, Role.MEAN: mean, Role.VARIANCE: variance,
            Role.SCALE: scale, Role.D_SCALE: _vector(program, kernel, n + 1),
            Role.D_SHIFT: _vector(program, kernel, n + 2),
        },
    )  # fmt: skip
    return program


def _masked_by_result(program: Program, y: Memory, dy: Memory, target: Memory) -> None:
    """dy where y is positive, else 0."""
    library, zero = program.library, ctypes.c_float(0)
    forward = library.made(
        "dnnl_eltwise_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_TRAINING),
        ctypes.c_int(Algorithm.RELU_BY_RESULT), y.kind, y.kind, zero, zero, library.attributes,
    )  # fmt: skip
    description = library.made(
        "dnnl_eltwise_backward_primitive_desc_create", library.engine, ctypes.c_int(Algorithm.RELU_BY_RESULT),
        target.kind, dy.kind, y.kind, zero, zero, forward, library.attributes,
    )  # fmt: skip
    program.add(description, {Role.TARGET: y, Role.D_TARGET: dy, Role.D_SOURCE: target})


def _masked(
    program: Program, kernel: BatchNormKernel, x: Memory, dy: Memory, target: Memory, vectors: tuple[Memory, ...]
) -> None:
    """dy where the norm of x is positive, else 0: its ReLU's result is not kept."""
    scale, bias, mean, variance = vectors
    gain = program.inside(scale.kind)
    chain(program, variance, [Chained(Algorithm.LINEAR, numbers=(1, kernel.epsilon)),
                              Chained(Algorithm.POW, numbers=(1, -0.5)), Chained(Algorithm.MUL, scale)], gain)  # fmt: skip
    columns = [program.spread(vector, len(kernel.x.dims)) for vector in (mean, gain, bias)]
    steps = zip((Algorithm.SUB, Algorithm.MUL, Algorithm.ADD), columns, strict=True)
    above = Chained(Algorithm.GREATER, program.number(0.0, len(kernel.x.dims)))
    chain(program, x, [*(Chained(*step) for step in steps), above, Chained(Algorithm.MUL, dy)], target)
