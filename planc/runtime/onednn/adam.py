"""An update of Adam's by oneDNN: eight passes of one thread over what lies in its cache, elements dealt out to threads."""

from onnx import TensorProto

from planc.kernels.adam import SCALARS
from planc.kernels.device import AdamKernel, Strided
from planc.runtime.onednn.chain import Chained, chain
from planc.runtime.onednn.constants import Algorithm
from planc.runtime.onednn.library import Library
from planc.runtime.onednn.parts import Parts, elements
from planc.runtime.onednn.program import Memory, Program


def adam(library: Library, kernel: AdamKernel) -> Parts:
    """The programs of the next values. Raises DeviceError where oneDNN has none."""
    with library.one_thread():
        return Parts(library, [_part(library, kernel, part) for part in elements(kernel.size)])


def _part(library: Library, kernel: AdamKernel, part: range) -> Program:
    """Every next value may lie over its old one: none is written before what reads that."""
    program, flat = Program(library), Strided((len(part),), (1,), TensorProto.FLOAT)
    parameter, first, second, gradient, *to = (
        program.operand(flat, at, 4 * part.start) for at in (0, 1, 2, 3, 5, 6, 7)
    )
    one = Strided((1,), (1,), TensorProto.FLOAT)
    beta1, rest1, beta2, rest2, step, root, keep = (program.operand(one, 4, 4 * k) for k in range(len(SCALARS)))
    new_parameter, new_first, new_second = to
    room = program.inside(parameter.kind)

    def times(a: Memory) -> Chained:
        return Chained(Algorithm.MUL, a)

    chain(program, gradient, [times(rest1)], room)
    chain(program, first, [times(beta1), Chained(Algorithm.ADD, room)], new_first)
    chain(program, gradient, [times(gradient), times(rest2)], room)
    chain(program, second, [times(beta2), Chained(Algorithm.ADD, room)], new_second)
    apart = Chained(Algorithm.LINEAR, numbers=(1, kernel.epsilon))
    chain(program, new_second, [Chained(Algorithm.SQRT)], room)
    chain(program, room, [times(root), apart], room)
    chain(program, new_first, [Chained(Algorithm.DIV, room), times(step)], room)
    chain(program, parameter, [times(keep), Chained(Algorithm.SUB, room)], new_parameter)
    return program
