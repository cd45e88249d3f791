"""Element-wise operations one after the other in one pass, by oneDNN's post-operations."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from planc.runtime.onednn.constants import Algorithm, Prop, Role
from planc.runtime.onednn.library import Handle
from planc.runtime.onednn.program import Memory, Program


@dataclass(frozen=True)
class Chained:
    """An operation on what came so far: with a second tensor, which may broadcast, or with two numbers."""

    algorithm: Algorithm
    second: Memory | None = None
    numbers: tuple[float, float] = (0.0, 0.0)

    @property
    def attribute(self) -> tuple[Algorithm, Handle] | tuple[Algorithm, float, float]:
        """It as one of a primitive's attributes."""
        if self.second is None:
            return (self.algorithm, *self.numbers)
        return self.algorithm, self.second.kind


def chain(program: Program, source: Memory, operations: Sequence[Chained], target: Memory) -> None:
    """Let `source` go through all operations into `target`, which may be it, next. The first of several is fast only with a
    second tensor.

    Raises DeviceError where oneDNN has no kernel.
    """
    first, *rest = operations
    library = program.library
    attributes = library.chained([operation.attribute for operation in rest]) if rest else library.attributes
    arguments: dict[int, Memory] = {Role.SOURCE: source, Role.TARGET: target}
    if first.second is None:
        description = library.made(
            "dnnl_eltwise_forward_primitive_desc_create", library.engine, ctypes.c_int(Prop.FORWARD_INFERENCE),
            ctypes.c_int(first.algorithm), source.kind, target.kind, *map(ctypes.c_float, first.numbers), attributes,
        )  # fmt: skip
    else:
        arguments[Role.SECOND] = first.second
        description = library.made(
            "dnnl_binary_primitive_desc_create", library.engine, ctypes.c_int(first.algorithm), source.kind,
            first.second.kind, target.kind, attributes,
        )  # fmt: skip
    for number, operation in enumerate(rest, 1):
        if operation.second is not None:
            arguments[Role.POST_OP * number | Role.SECOND] = operation.second
    program.add(description, arguments)
