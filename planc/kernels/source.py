"""CUDA C that kernels are made of, in files beside this one (`sources`), and what they agree on.

Arithmetic is in float32 whatever the elements are. Sizes are written into the text, as constants before it. `PREFIX` in the
names of kernels stands for a name that keeps those of one module apart.
"""

from collections.abc import Mapping
from functools import cache
from importlib import resources

from onnx import TensorProto

C_TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float", TensorProto.FLOAT16: "Half", TensorProto.BFLOAT16: "Brain",
}  # fmt: skip
"""The structure that holds one element, by ONNX element type."""

VECTOR_BYTES = 16
"""Of the widest load and store of a thread."""


@cache
def _text(file: str) -> str:
    return resources.files("planc.kernels").joinpath("sources", file).read_text()


def source_of(
    constants: Mapping[str, int | float | bool], element: int, *files: str, types: Mapping[str, int] | None = None
) -> str:
    """The files' text behind the element types, `T` (that of ONNX element type `element`), others by their names, and the
    constants."""
    named = {"T": element, **(types or {})}
    lines = [_text("elements.cuh"), *(f"typedef {C_TYPES[kind]} {name};\n" for name, kind in named.items())]
    lines += [f"#define {name} {_literal(value)}\n" for name, value in constants.items()]
    return "".join([*lines, *map(_text, files)])


def _literal(value: int | float | bool) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value}ll" if isinstance(value, int) else f"{value!r}f"


def width_of(itemsize: int, *extents: int) -> int:
    """Elements of the widest vector that every one of `extents` (contiguous elements) is a multiple of."""
    width = VECTOR_BYTES // itemsize
    while any(extent % width for extent in extents):
        width //= 2
    return width
