"""Operators of planc's own: one record each, and the registry of them.

What an operator means is an ONNX function of standard operators (`planc.kernels.function`): any runtime executes a
model that has it, and it is the specification that every kernel is tested against. A kernel replaces it where a device
has one (`planc.kernels.device`).
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from onnx import TensorProto

from planc.errors import ModelError
from planc.kernels.body import Body
from planc.registry import Registry

if TYPE_CHECKING:
    from planc.kernels.device import CpuKernel, CudaKernel

DOMAIN = "planc.kernels"
"""ONNX domain of planc's own operators."""

VERSION = 1
"""Of the domain: raised when a function that a name stands for changes."""

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...]

_ITEM_BYTES: Mapping[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2,
    TensorProto.INT64: 8, TensorProto.UINT64: 8, TensorProto.INT32: 4, TensorProto.UINT32: 4,
    TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.BOOL: 1,
}  # fmt: skip


class TensorType(NamedTuple):
    """ONNX element type and concrete shape of an operand."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Call:
    """One use of an operator: its attributes, defaults filled in, and the types of its inputs."""

    operator: "Operator"
    attributes: Mapping[str, Attribute]
    inputs: tuple[TensorType, ...]

    @property
    def outputs(self) -> tuple[TensorType, ...]:
        """Types of the outputs. Raises ModelError when the inputs do not fit the operator."""
        return self.operator.types(self)

    @property
    def where(self) -> str:
        """How messages name the call."""
        shapes = ", ".join(str(list(t.shape)) for t in self.inputs)
        return f"{DOMAIN}.{self.operator.name}({shapes})"

    def whole(self, name: str) -> int:
        """An attribute that is one integer."""
        return int(self._typed(name, int))

    def real(self, name: str) -> float:
        """An attribute that is one real number."""
        return float(self._typed(name, (int, float)))

    def text(self, name: str) -> str:
        """An attribute that is text."""
        return str(self._typed(name, str))

    def ints(self, name: str) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(self._typed(name, tuple))

    def _typed(self, name: str, kind: Any) -> Any:
        value = self.attributes[name]
        if not isinstance(value, kind):
            raise ModelError(f"{self.where}: attribute {name!r} is {value!r}, which has the wrong type")
        return value

    def refuse(self, expected: str) -> ModelError:
        """The error for operands that do not fit: what was expected instead."""
        found = ", ".join(f"{TensorProto.DataType.Name(t.dtype)} {list(t.shape)}" for t in self.inputs)
        return ModelError(f"{DOMAIN}.{self.operator.name} of ({found}): expected {expected}")


@dataclass(frozen=True)
class Operator:
    """One operator.

    `types` gives the types of the outputs of a call; `meaning` writes the function's body and returns the names of its
    outputs. `saved` are the outputs that exist for the gradient's sake. `cuda` gives the kernel of a call on an NVIDIA
    card, None where the function's own operators run there (a type that the kernel lacks, say): a kernel says itself
    which workspace it takes. `cpu` gives that of a library on the CPU likewise. `random` operators draw numbers from a
    generator, so that they must run exactly once.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Callable[[Call], tuple[TensorType, ...]]
    meaning: Callable[[Call, Body], Sequence[str]]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    optional: int = 0
    """How many of the last inputs may be left out."""
    saved: frozenset[str] = frozenset()
    cuda: "Callable[[Call], CudaKernel | None] | None" = None
    cpu: "Callable[[Call], CpuKernel | None] | None" = None
    products: "Callable[[Call], int] | None" = None
    """Multiply-adds of its products of matrices and convolutions; none where it makes no such."""
    in_place: tuple[int, ...] = ()
    """Positions of inputs whose bytes the first output may take: each element is read before it is written."""

    def call(self, inputs: Sequence[TensorType], **attributes: Attribute) -> Call:
        """A use of the operator. Raises ModelError for an unknown attribute or a wrong number of inputs."""
        unknown = attributes.keys() - self.attributes.keys()
        if unknown:
            raise ModelError(f"{DOMAIN}.{self.name} has no attribute {sorted(unknown)[0]!r}")
        least = len(self.inputs) - self.optional
        if not least <= len(inputs) <= len(self.inputs):
            raise ModelError(f"{DOMAIN}.{self.name} takes {least} to {len(self.inputs)} inputs, not {len(inputs)}")
        given = {name: _as_written(value) for name, value in {**self.attributes, **attributes}.items()}
        return Call(self, given, tuple(inputs))


def _as_written(value: Attribute) -> Attribute:
    """What a model gives back of an attribute: ONNX has real numbers in float32."""
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]  # type: ignore[no-any-return]
    if isinstance(value, tuple) and any(isinstance(part, float) for part in value):
        return tuple(float(_as_written(part)) for part in value)  # type: ignore[arg-type]
    return value


OPERATORS: Registry[str, Operator] = Registry("the operator")
"""Every operator, by name."""


def register(operator: Operator) -> Operator:
    """Make an operator known. Raises InternalError for a name that is taken."""
    OPERATORS.add([operator.name], operator)
    return operator


def operator_named(name: str) -> Operator:
    """The operator of that name. Raises ModelError for an unknown one."""
    if name not in OPERATORS:
        raise ModelError(f"{DOMAIN} has no operator {name!r}: this planc knows {', '.join(sorted(OPERATORS))}")
    return OPERATORS[name]
