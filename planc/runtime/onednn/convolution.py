"""A convolution by oneDNN."""

import ctypes
from collections.abc import Mapping, Sequence

from planc.kernels.device import ConvolutionKernel, Pass
from planc.runtime.onednn.constants import DTYPES, Algorithm, Prop, Query, Role
from planc.runtime.onednn.library import Handle, Library, sizes
from planc.runtime.onednn.program import Memory, Program, refuse_reference

_ROLES: Mapping[Pass, Sequence[tuple[Query, Role]]] = {
    Pass.FORWARD: ((Query.SOURCE, Role.SOURCE), (Query.WEIGHTS, Role.WEIGHTS), (Query.TARGET, Role.TARGET)),
    Pass.INPUT_GRADIENT: (
        (Query.D_SOURCE, Role.D_SOURCE), (Query.WEIGHTS, Role.WEIGHTS), (Query.D_TARGET, Role.D_TARGET),
    ),
    Pass.WEIGHT_GRADIENT: (
        (Query.SOURCE, Role.SOURCE), (Query.D_WEIGHTS, Role.D_WEIGHTS), (Query.D_TARGET, Role.D_TARGET),
    ),
}  # fmt: skip
"""What is asked of the description, and the role, of X, W and Y in each pass."""

_RESULT = {Pass.FORWARD: 2, Pass.INPUT_GRADIENT: 0, Pass.WEIGHT_GRADIENT: 1}
_W = 1


def convolution(library: Library, kernel: ConvolutionKernel, direct: bool) -> Program:
    """The program of a convolution. It reads and writes X and Y as they lie where `direct`, else in the layouts that the
    library likes best. Raises DeviceError where oneDNN has none.
    """
    description = _description(library, kernel, direct)
    refuse_reference(library, description, "a convolution")
    program, result = Program(library), _RESULT[kernel.which]
    arguments: dict[int, Memory] = {}
    for position, (query, role) in enumerate(_ROLES[kernel.which]):
        given, wanted = (
            program.operand(kernel.operands[position], kernel.places[position]),
            library.wanted(description, query),
        )
        if position != result:
            arguments[role] = program.laid_out(given, wanted)
            continue
        target, made = given, given if library.same(wanted, given.kind) else program.inside(wanted)
        arguments[role] = made
    program.add(description, arguments)
    if made is not target:
        program.reorder(made, target)
    return program


def _description(library: Library, kernel: ConvolutionKernel, direct: bool) -> Handle:
    """The primitive's description."""
    x, w, y = (
        library.strided(o.dims, o.strides, DTYPES[o.dtype])
        if direct and position != _W
        else library.any_layout(o.dims, DTYPES[o.dtype])
        for position, o in enumerate(kernel.operands)
    )
    window = [sizes(v) for v in (kernel.strides, [d - 1 for d in kernel.dilations], *kernel.pads)]
    how = ctypes.c_int(Algorithm.DIRECT)
    forward = library.made(
        "dnnl_convolution_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_TRAINING), how,
        x, w, None, y, *window, library.attributes,
    )  # fmt: skip
    if kernel.which is Pass.FORWARD:
        return forward
    if kernel.which is Pass.INPUT_GRADIENT:
        name, bias = "dnnl_convolution_backward_data_primitive_desc_create", tuple[None, ...]()
    else:
        name, bias = "dnnl_convolution_backward_weights_primitive_desc_create", (None,)
    return library.made(name, library.engine, how, x, w, *bias, y, *window, forward, library.attributes)
