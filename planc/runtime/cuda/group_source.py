"""CUDA C of a group of fused operators (`planc.graph.grouped`): blocks are dealt out to the members.

A block finds its member by halving, in code: addresses are parameters and sizes constants. Members that compute the same
share a function, whatever their sizes. A thread computes some consecutive elements as in `planc.runtime.cuda.source`; what
does not fill a vector at a member's end is computed element by element.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from planc.graph.grouped import Member, is_group, members_of
from planc.runtime.cuda.source import BLOCK, Operand, blocks, element, source, vector, vector_struct, width


@dataclass(frozen=True)
class _Part:
    """A member with its operands; inputs of one element are read by all threads."""

    member: Member
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    @property
    def count(self) -> int:
        """Elements of each output."""
        return self.outputs[0].elements

    @property
    def each(self) -> int:
        """Elements of a thread."""
        return width((*self.inputs, *self.outputs))

    @property
    def blocks(self) -> int:
        return blocks(self.count, self.each)

    def is_full(self, operand: Operand) -> bool:
        """Whether an input has an element for each of the outputs'."""
        return operand.shape == self.outputs[0].shape

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for members that share a function."""
        types = [(o.element_type, self.is_full(o)) for o in self.inputs], [o.element_type for o in self.outputs]
        return self.member.function.SerializeToString(deterministic=True), str(types)


def pass_source(
    name: str, function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand], wide: bool
) -> str:
    """The kernel `name` of a fused operator, group or not; see `planc.runtime.cuda.source.source`."""
    if not is_group(function.name):
        return source(name, function, inputs, outputs, wide)
    parts = _parts(function, inputs, outputs)
    kinds = list(dict.fromkeys(part.kind for part in parts))
    number = {kind: k for k, kind in enumerate(kinds)}
    parameters = [f"const {o.c_type}* a{k}" for k, o in enumerate(inputs)]
    parameters += [f"{o.c_type}* r{k}" for k, o in enumerate(outputs)]
    lines = [f"namespace of_{name} {{", f"typedef {'unsigned long long' if _is_long(parts) else 'unsigned int'} Index;"]
    for kind, k in number.items():
        part = next(part for part in parts if part.kind == kind)
        lines += [f"namespace kind{k} {{", *_kind(part, wide), "}"]
    calls = [f"kind{number[part.kind]}::run({_arguments(part)}" for part in parts]
    lines += [
        f'extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({", ".join(parameters)}) {{',
        *_dealt(parts, calls, 0, len(parts), _starts(parts)),
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def pass_blocks(function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> int:
    """Blocks of `BLOCK` threads of that kernel."""
    if not is_group(function.name):
        return blocks(outputs[0].elements, width((*inputs, *outputs)))
    return _starts(_parts(function, inputs, outputs))[-1]


def reads_vectors(function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> bool:
    """Whether there is a kernel that wants addresses which are multiples of a vector's bytes."""
    return is_group(function.name) or outputs[0].elements % width((*inputs, *outputs)) == 0


def _parts(function: onnx.FunctionProto, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> list[_Part]:
    return [
        _Part(member, tuple(inputs[k] for k in member.inputs), tuple(outputs[k] for k in member.outputs))
        for member in members_of(function)
    ]


def _starts(parts: Sequence[_Part]) -> list[int]:
    """The first block of each part, and the number of all."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + part.blocks)
    return starts


def _is_long(parts: Sequence[_Part]) -> bool:
    return any(part.count >> 31 for part in parts)


def _arguments(part: _Part) -> str:
    member = part.member
    return ", ".join([*(f"a{k}" for k in member.inputs), *(f"r{k}" for k in member.outputs), f"{part.count}u"])


def _dealt(parts: Sequence[_Part], calls: Sequence[str], low: int, high: int, starts: Sequence[int]) -> Iterator[str]:
    """Calls of the parts from `low` to `high`, for blocks between their starts."""
    if high - low == 1:
        each = parts[low].each
        yield f"{calls[low]}, ((Index)(blockIdx.x - {starts[low]}u) * {BLOCK}u + threadIdx.x) * {each}u);"
        return
    middle = (low + high) // 2
    yield f"if (blockIdx.x < {starts[middle]}u) {{"
    yield from _dealt(parts, calls, low, middle, starts)
    yield "} else {"
    yield from _dealt(parts, calls, middle, high, starts)
    yield "}"


def _kind(part: _Part, wide: bool) -> Iterator[str]:
    """The function that computes a thread's elements of a part of this kind, from `first` on."""
    each, inputs, outputs = part.each, part.inputs, part.outputs
    yield vector_struct(each)
    yield from element(part.member.function, inputs, outputs)
    given = [f"const {o.c_type}* a{k}" for k, o in enumerate(inputs)] + [
        f"{o.c_type}* r{k}" for k, o in enumerate(outputs)
    ]
    yield f"static __device__ __noinline__ void run({', '.join(given)}, Index count, Index first) {{"
    yield "  if (first >= count) return;"
    yield from (f"  const {o.c_type} s{k} = *a{k};" for k, o in enumerate(inputs) if not part.is_full(o))
    if wide:
        yield f"  if (first + {each}u <= count) {{"
        for k, o in enumerate(inputs):
            if part.is_full(o):
                yield f"    const {vector(o)} v{k} = *(const {vector(o)}*)(a{k} + first);"
        yield from (f"    {vector(o)} w{k};" for k, o in enumerate(outputs))
        read = [f"v{k}.x[k]" if part.is_full(o) else f"s{k}" for k, o in enumerate(inputs)]
        written = [f"w{k}.x[k]" for k in range(len(outputs))]
        yield f"    for (int k = 0; k < {each}; k++) element({', '.join((*read, *written))});"
        yield from (f"    *({vector(o)}*)(r{k} + first) = w{k};" for k, o in enumerate(outputs))
        yield "    return;"
        yield "  }"
    read = [f"a{k}[i]" if part.is_full(o) else f"s{k}" for k, o in enumerate(inputs)]
    written = [f"r{k}[i]" for k in range(len(outputs))]
    yield f"  for (Index i = first; i < first + {each}u && i < count; i++) element({', '.join((*read, *written))});"
    yield "}"
