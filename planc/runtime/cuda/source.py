"""CUDA C of a fused operator: a thread computes some consecutive elements, all of them read before the first is written.

So an output may take the place of any input of its shape (`planc.graph.inplace`). Compiled without contraction of products
and sums, a fused kernel rounds as one kernel for each operator does. Numbers of half precision are bits to it, which
`PREAMBLE` converts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from planc.graph.fused import C_TYPES, CASTS, EXPRESSIONS, PREDICATES

BLOCK = 256
"""Threads of a block."""

VECTOR_BYTES = 16
"""What a thread loads or stores at once."""

PREAMBLE = """
struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };
static __device__ __forceinline__ float from_half(Half h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
}
static __device__ __forceinline__ Half to_half(float f) {
  Half h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
  return h;
}
static __device__ __forceinline__ float from_brain(Brain b) { return __uint_as_float((unsigned int)b.bits << 16); }
static __device__ __forceinline__ Brain to_brain(float f) {
  Brain b;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b.bits) : "f"(f));
#else
  const unsigned int u = __float_as_uint(f);
  b.bits = f != f ? 0x7fff : (unsigned short)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
#endif
  return b;
}
"""
"""Conversions that every text with kernels begins with: to the nearest, ties to even."""


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

    @property
    def is_half(self) -> bool:
        """Whether an element takes two bytes."""
        return self.c_type in ("Half", "Brain")


def width(operands: Sequence[Operand]) -> int:
    """Elements of a thread: as many of the narrowest floats as a vector holds."""
    return VECTOR_BYTES // (2 if any(o.is_half for o in operands) else 4)


def blocks(elements: int, per_thread: int) -> int:
    """Blocks of `BLOCK` threads that cover so many elements."""
    return -(-elements // (per_thread * BLOCK))


def source(
    name: str, function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand], wide: bool
) -> str:
    """The kernel `name` of a function, in a namespace of its own; inputs are broadcast to the shape that all outputs have.

    It takes the addresses of the inputs, then those of the outputs. A `wide` one wants addresses that are multiples of
    `VECTOR_BYTES` and a number of elements that is one of `width`. The text needs `PREAMBLE` before it.
    """
    count, each = outputs[0].elements, width((*inputs, *outputs))
    parameters = [f"const {o.c_type}* a{k}" for k, o in enumerate(inputs)]
    parameters += [f"{o.c_type}* r{k}" for k, o in enumerate(outputs)]
    lines = [
        f"namespace of_{name} {{",
        f"typedef {'unsigned long long' if count >> 31 else 'unsigned int'} Index;",
        f"static const Index count = {count}u;",
        vector_struct(each),
        *element(function, inputs, outputs),
        f'extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({", ".join(parameters)}) {{',
        f"  const Index first = ((Index)blockIdx.x * {BLOCK}u + threadIdx.x) * {each}u;",
        *(f"  {line}" for line in (_wide if wide else _narrow)(inputs, outputs, each)),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def vector_struct(each: int) -> str:
    """The type of `each` consecutive elements, as wide as one load where they are no more."""
    size, most = f"sizeof(T) * {each}", VECTOR_BYTES
    return f"template <class T> struct alignas({size} < {most} ? {size} : {most}) Vector {{ T x[{each}]; }};"


def element(function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Iterator[str]:
    """The function `element`: from one element of each input to one of each output."""
    kinds = {name: o.c_type for o, name in zip(inputs, function.input, strict=True)}
    given = [f"{kind} {name}" for name, kind in kinds.items()]
    made = [f"{o.c_type}& to_{name}" for o, name in zip(outputs, function.output, strict=True)]
    yield f"static __device__ __forceinline__ void element({', '.join((*given, *made))}) {{"
    for node in function.node:
        (result,), read = node.output, kinds[node.input[0]]
        if node.op_type == "Cast":
            kinds[result] = C_TYPES[node.attribute[0].i]
            expression = CASTS[read, kinds[result]]
        else:
            kinds[result] = "bool" if node.op_type in PREDICATES else kinds[node.input[-1]]
            expression = EXPRESSIONS[node.op_type]
        yield f"  const {kinds[result]} {result} = {expression.format(*node.input)};"
    yield from (f"  to_{name} = {name};" for name in function.output)
    yield "}"


def _wide(inputs: Sequence[Operand], outputs: Sequence[Operand], each: int) -> Iterator[str]:
    """Vectors of the inputs, an element each, vectors of the outputs."""
    yield "if (first >= count) return;"
    for k, operand in enumerate(inputs):
        yield from _loaded(k, operand, outputs[0].shape, each)
    yield from (f"{vector(operand)} w{k};" for k, operand in enumerate(outputs))
    arguments = [f"v{k}.x[k]" for k in range(len(inputs))] + [f"w{k}.x[k]" for k in range(len(outputs))]
    yield f"for (int k = 0; k < {each}; k++) element({', '.join(arguments)});"
    yield from (f"*({vector(operand)}*)(r{k} + first) = w{k};" for k, operand in enumerate(outputs))


def _loaded(k: int, operand: Operand, shape: tuple[int, ...], each: int) -> Iterator[str]:
    """The elements of input `k` that a thread needs: one vector, one element for all, or each by itself."""
    terms, kind = digits(operand.shape, shape), vector(operand)
    below, size, stride = terms[0] if terms else (math.prod(shape), 1, 1)
    at = _sum(terms, math.prod(shape), "first")
    if below == 1 and stride == 1 and size % each == 0:
        yield f"const {kind} v{k} = *(const {kind}*)(a{k} + {at});"
        return
    yield f"{kind} v{k};"
    if below % each == 0:
        yield f"const {operand.c_type} s{k} = a{k}[{at}];"
        yield f"for (int k = 0; k < {each}; k++) v{k}.x[k] = s{k};"
    else:
        yield f"for (int k = 0; k < {each}; k++) {{ const Index i = first + k; v{k}.x[k] = {_at(k, operand, shape)}; }}"


def _narrow(inputs: Sequence[Operand], outputs: Sequence[Operand], each: int) -> Iterator[str]:
    shape = outputs[0].shape
    arguments = [_at(k, operand, shape) for k, operand in enumerate(inputs)] + [f"r{k}[i]" for k in range(len(outputs))]
    yield f"for (Index i = first; i < first + {each}u && i < count; i++) element({', '.join(arguments)});"


def vector(operand: Operand) -> str:
    """The type of a thread's elements of an operand."""
    return f"Vector<{operand.c_type}>"


def _at(position: int, operand: Operand, shape: tuple[int, ...]) -> str:
    """The element of an input that output element `i` reads."""
    return f"a{position}[{subscript(operand.shape, shape)}]"


Digit = tuple[int, int, int]
"""(elements below, size, stride): the coordinate `i / below % size` of output element `i`, times its stride."""


def digits(shape: tuple[int, ...], full: tuple[int, ...]) -> list[Digit]:
    """The coordinates, innermost first, that add up to the position in an array of `shape` of what NumPy broadcasts to an
    element of one of `full`. Neighbours that are contiguous in both make one."""
    terms, below, stride = [], 1, 1
    for size, wanted in zip(_padded(shape, len(full))[::-1], full[::-1], strict=True):
        if size > 1:
            terms.append((below, wanted, stride))
        below, stride = below * wanted, stride * size
    merged: list[Digit] = []
    for below, wanted, stride in terms:
        if merged and merged[-1][0] * merged[-1][1] == below and merged[-1][2] * merged[-1][1] == stride:
            below, wanted, stride = merged[-1][0], merged[-1][1] * wanted, merged[-1][2]
            merged.pop()
        merged.append((below, wanted, stride))
    return merged


def subscript(shape: tuple[int, ...], full: tuple[int, ...]) -> str:
    """C expression: position in an array of `shape` of what NumPy broadcasts to the element `i` of one of `full`."""
    return "i" if shape == full else _sum(digits(shape, full), math.prod(full), "i")


def _sum(terms: Sequence[Digit], total: int, element: str) -> str:
    return " + ".join(_digit(*term, total, element) for term in terms) or "0"


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def _digit(below: int, size: int, stride: int, total: int, element: str) -> str:
    text = f"{element} / {below}u" if below > 1 else element
    if below * size < total:
        text = f"{text} % {size}u"
    return f"({text}) * {stride}u" if stride > 1 else f"({text})"
