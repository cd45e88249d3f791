"""CUDA C of a fused operator: one thread computes four consecutive elements, all of them read before the first is written.

So an output may take the place of any input of its shape (`planc.graph.inplace`). Compiled without contraction of products
and sums, a fused kernel rounds as one kernel for each operator does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from planc.graph.fused import C_TYPES, EXPRESSIONS, PREDICATES

WIDTH = 4
"""Elements of a thread."""

BLOCK = 256
"""Threads of a block."""

VECTOR_BYTES = 4 * WIDTH


@dataclass(frozen=True)
class Operand:
    """An input or output of a fused operator: ONNX element type and shape."""

    element_type: int
    shape: tuple[int, ...]

    @property
    def c_type(self) -> str:
        return C_TYPES[self.element_type]

    @property
    def elements(self) -> int:
        """Their number."""
        return math.prod(self.shape)


def blocks(elements: int) -> int:
    """Blocks of `BLOCK` threads that cover so many elements."""
    return -(-elements // (WIDTH * BLOCK))


def source(
    name: str, function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand], wide: bool
) -> str:
    """The kernel `name` of a function, in a namespace of its own; inputs are broadcast to the shape that all outputs have.

    It takes the addresses of the inputs, then those of the outputs. A `wide` one wants addresses that are multiples of
    `VECTOR_BYTES` and a number of elements that is one of `WIDTH`.
    """
    shape, count = outputs[0].shape, outputs[0].elements
    parameters = [f"const {o.c_type}* a{k}" for k, o in enumerate(inputs)]
    parameters += [f"{o.c_type}* r{k}" for k, o in enumerate(outputs)]
    lines = [
        f"namespace of_{name} {{",
        f"typedef {'unsigned long long' if count >> 31 else 'unsigned int'} Index;",
        f"static const Index count = {count}u;",
        f"struct alignas({VECTOR_BYTES}) Floats {{ float x[{WIDTH}]; }};",
        f"struct alignas({WIDTH}) Bools {{ bool x[{WIDTH}]; }};",
        *_element(function, inputs, outputs),
        f'extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({", ".join(parameters)}) {{',
        f"  const Index first = ((Index)blockIdx.x * {BLOCK}u + threadIdx.x) * {WIDTH}u;",
        *(f"  {line}" for line in (_wide if wide else _narrow)(inputs, outputs, shape)),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _element(function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Iterator[str]:
    """A function that computes one element."""
    given = [f"{o.c_type} {name}" for o, name in zip(inputs, function.input, strict=True)]
    made = [f"{o.c_type}& to_{name}" for o, name in zip(outputs, function.output, strict=True)]
    yield f"static __device__ __forceinline__ void element({', '.join((*given, *made))}) {{"
    predicates = {name for o, name in zip(inputs, function.input, strict=True) if o.c_type == "bool"}
    for node in function.node:
        if node.op_type in PREDICATES:
            predicates.add(node.output[0])
        kind = "bool" if node.output[0] in predicates else "float"
        yield f"  const {kind} {node.output[0]} = {EXPRESSIONS[node.op_type].format(*node.input)};"
    yield from (f"  to_{name} = {name};" for name in function.output)
    yield "}"


def _wide(inputs: Sequence[Operand], outputs: Sequence[Operand], shape: tuple[int, ...]) -> Iterator[str]:
    """Vectors of the inputs, an element each, vectors of the outputs."""
    yield "if (first >= count) return;"
    for k, operand in enumerate(inputs):
        vector = _vector(operand)
        if operand.shape == shape:
            yield f"const {vector} v{k} = *(const {vector}*)(a{k} + first);"
        else:
            yield f"{vector} v{k};"
            at = _at(k, operand, shape)
            yield f"for (int k = 0; k < {WIDTH}; k++) {{ const Index i = first + k; v{k}.x[k] = {at}; }}"
    yield from (f"{_vector(operand)} w{k};" for k, operand in enumerate(outputs))
    arguments = [f"v{k}.x[k]" for k in range(len(inputs))] + [f"w{k}.x[k]" for k in range(len(outputs))]
    yield f"for (int k = 0; k < {WIDTH}; k++) element({', '.join(arguments)});"
    yield from (f"*({_vector(operand)}*)(r{k} + first) = w{k};" for k, operand in enumerate(outputs))


def _narrow(inputs: Sequence[Operand], outputs: Sequence[Operand], shape: tuple[int, ...]) -> Iterator[str]:
    arguments = [_at(k, operand, shape) for k, operand in enumerate(inputs)] + [f"r{k}[i]" for k in range(len(outputs))]
    yield f"for (Index i = first; i < first + {WIDTH}u && i < count; i++) element({', '.join(arguments)});"


def _vector(operand: Operand) -> str:
    return "Bools" if operand.c_type == "bool" else "Floats"


def _at(position: int, operand: Operand, shape: tuple[int, ...]) -> str:
    """The element of an input that output element `i` reads."""
    return f"a{position}[{subscript(operand.shape, shape)}]"


def subscript(shape: tuple[int, ...], full: tuple[int, ...]) -> str:
    """C expression: position in an array of `shape` of what NumPy broadcasts to the element `i` of one of `full`."""
    if shape == full:
        return "i"
    terms, below, stride = [], 1, 1
    for size, wanted in zip(_padded(shape, len(full))[::-1], full[::-1], strict=True):
        if size > 1:
            terms.append((below, wanted, stride))
        below, stride = below * wanted, stride * size
    merged: list[tuple[int, int, int]] = []
    for below, wanted, stride in terms:  # from the innermost axis: neighbours that are contiguous in both make one
        if merged and merged[-1][0] * merged[-1][1] == below and merged[-1][2] * merged[-1][1] == stride:
            below, wanted, stride = merged[-1][0], merged[-1][1] * wanted, merged[-1][2]
            merged.pop()
        merged.append((below, wanted, stride))
    total = math.prod(full)
    return " + ".join(_digit(*term, total) for term in merged) or "0"


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def _digit(below: int, size: int, stride: int, total: int) -> str:
    """One coordinate of element `i` times its stride."""
    text = f"i / {below}u" if below > 1 else "i"
    if below * size < total:
        text = f"{text} % {size}u"
    return f"({text}) * {stride}u" if stride > 1 else f"({text})"
