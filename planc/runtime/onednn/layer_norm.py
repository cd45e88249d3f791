"""Layer-norm by oneDNN, forward and backward, rows dealt out to threads.

The statistics of planc's operator lie side by side, mean and inverse deviation of each row; the library has a vector of
means and one of variances. So the gradient is that of the variance inverse^-2 with an epsilon of zero.
"""

import ctypes
from dataclasses import dataclass

from onnx import TensorProto

from planc.kernels.device import LayerNormKernel, Strided
from planc.runtime.onednn.chain import Chained, chain
from planc.runtime.onednn.constants import DTYPES, Algorithm, Norm, Prop, Role
from planc.runtime.onednn.library import Handle, Library
from planc.runtime.onednn.parts import Parts, ranges
from planc.runtime.onednn.program import Memory, Program, refuse_reference

_FLOAT = TensorProto.FLOAT
_SHARED = 7
"""Position of the workspace that parts share among the addresses of a gradient."""


def layer_norm(library: Library, kernel: LayerNormKernel) -> Parts:
    """The programs of the forward pass or of the gradient. Raises DeviceError where oneDNN has none."""
    with library.one_thread():
        works = [_Norm(library, kernel, Program(library), rows, k) for k, rows in enumerate(_dealt(kernel))]
        programs = [work.program for work in works]
        if not kernel.gradient:
            for work in works:
                work.forward()
            return Parts(library, programs)
        for work in works:
            work.gradient()
        return Parts(library, programs, len(works) * 2 * 4 * kernel.columns, _summed(library, kernel, len(works)))


def _dealt(kernel: LayerNormKernel) -> list[range]:
    return ranges(kernel.rows, kernel.columns)


def _vector(program: Program, kernel: LayerNormKernel, position: int, begin: int = 0) -> Memory:
    return program.operand(Strided((kernel.columns,), (1,), _FLOAT), position, begin)


def _summed(library: Library, kernel: LayerNormKernel, parts: int) -> Program:
    """dscale and dbias of the parts' own, which lie one after the other."""
    program, size = Program(library), 4 * kernel.columns
    for which in range(2):
        first, *rest = (_vector(program, kernel, _SHARED, (2 * part + which) * size) for part in range(parts))
        to = _vector(program, kernel, 5 + which)
        if not rest:
            program.reorder(first, to)
        else:
            chain(program, first, [Chained(Algorithm.ADD, other) for other in rest], to)
    return program


@dataclass(frozen=True)
class _Norm:
    """The norm of some of the rows."""

    library: Library
    kernel: LayerNormKernel
    program: Program
    rows: range
    part: int

    def _matrix(self, position: int) -> Memory:
        columns = self.kernel.columns
        rows = Strided((len(self.rows), columns), (columns, 1), _FLOAT)
        return self.program.operand(rows, position, 4 * columns * self.rows.start)

    def _vector(self, position: int, begin: int = 0) -> Memory:
        return _vector(self.program, self.kernel, position, begin)

    def _dense(self) -> Memory:
        """A number [R, 1] for each row, in the workspace."""
        return self.program.inside(self.library.strided((len(self.rows), 1), (1, 1), DTYPES[_FLOAT]))

    def _flat(self, column: Memory) -> Memory:
        """The same as a vector, which the norm wants."""
        return self.program.view(column, self._kinds()[1])

    def _statistics(self, position: int) -> tuple[Memory, Memory]:
        """The two statistics [R, 1], as they lie."""
        count = len(self.rows)
        both = self.program.operand(Strided((count, 2), (2, 1), _FLOAT), position, 8 * self.rows.start)
        kinds = (self.library.part(both.kind, (count, 1), (0, which)) for which in range(2))
        mean, inverse = (self.program.view(both, kind) for kind in kinds)
        return mean, inverse

    def _kinds(self) -> tuple[Handle, Handle]:
        """Descriptions of the matrix and of a statistic."""
        rows, columns, dtype = len(self.rows), self.kernel.columns, DTYPES[_FLOAT]
        return self.library.strided((rows, columns), (columns, 1), dtype), self.library.strided((rows,), (1,), dtype)

    def _forward_description(self, flags: Norm, epsilon: float) -> Handle:
        kind, statistics = self._kinds()
        return self.library.made(
            "dnnl_layer_normalization_forward_primitive_desc_create", self.library.engine,
            ctypes.c_int(Prop.FORWARD_TRAINING), kind, kind, statistics, ctypes.c_float(epsilon), ctypes.c_uint(flags),
            self.library.attributes,
        )  # fmt: skip

    def forward(self) -> None:
        """Inputs x, scale, [bias]; outputs y, statistics."""
        program, n = self.program, 2 + self.kernel.biased
        flags = Norm.SCALE | (Norm.SHIFT if self.kernel.biased else Norm(0))
        description = self._forward_description(flags, self.kernel.epsilon)
        refuse_reference(self.library, description, "a layer-norm")
        mean, variance = self._dense(), self._dense()
        arguments: dict[int, Memory] = {
            Role.SOURCE: self._matrix(0), Role.SCALE: self._vector(1), Role.TARGET: self._matrix(n),
            Role.MEAN: self._flat(mean), Role.VARIANCE: self._flat(variance),
        }  # fmt: skip
        if self.kernel.biased:
            arguments[Role.SHIFT] = self._vector(2)
        program.add(description, arguments)
        to_mean, to_inverse = self._statistics(n + 1)
        program.reorder(mean, to_mean)
        added = Chained(Algorithm.ADD, program.number(self.kernel.epsilon, 1))
        root = [added, Chained(Algorithm.POW, numbers=(1, -0.5))]
        chain(program, self._flat(variance), root, self._flat(variance))
        program.reorder(variance, to_inverse)

    def gradient(self) -> None:
        """Inputs dy, x, scale, statistics; outputs dx, and of these rows dscale and dbias in the workspace."""
        program, library = self.program, self.library
        flags, (kind, statistics) = Norm.SCALE | Norm.SHIFT, self._kinds()
        description = library.made(
            "dnnl_layer_normalization_backward_primitive_desc_create", library.engine, ctypes.c_int(Prop.BACKWARD),
            kind, kind, kind, statistics, ctypes.c_float(0), ctypes.c_uint(flags),
            self._forward_description(flags, 0), library.attributes,
        )  # fmt: skip
        refuse_reference(library, description, "a layer-norm's gradient")
        mean, variance = self._dense(), self._dense()
        for given, dense in zip(self._statistics(3), (mean, variance), strict=True):
            program.reorder(given, dense)
        chain(program, self._flat(variance), [Chained(Algorithm.POW, numbers=(1, -2))], self._flat(variance))
        scale, size = self._vector(2), 4 * self.kernel.columns
        program.add(
            description,
            {
                Role.SOURCE: self._matrix(1), Role.D_TARGET: self._matrix(0), Role.SCALE: scale,
                Role.SHIFT: scale,  # which it asks for, and does not read
                Role.MEAN: self._flat(mean), Role.VARIANCE: self._flat(variance), Role.D_SOURCE: self._matrix(4),
                Role.D_SCALE: self._vector(_SHARED, 2 * self.part * size),
                Role.D_SHIFT: self._vector(_SHARED, (2 * self.part + 1) * size),
            },
        )  # fmt: skip
