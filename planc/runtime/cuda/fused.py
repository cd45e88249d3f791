"""Kernels of fused operators: written as CUDA C, compiled by NVRTC, run inside ONNX Runtime's sessions.

A model says with ONNX functions what its fused operators compute (`planc.importer.fuse`). Here the functions are taken
out and the nodes become operators of planc's own, one for each function and the types of its operands. Without that,
ONNX Runtime would run their parts one by one, with bytes of its own for what is between them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial

import onnx

from planc.graph.fused import DOMAIN
from planc.runtime.cuda.compiler import can_compile, handles, launch, load
from planc.runtime.cuda.group_source import pass_blocks, pass_source, reads_vectors
from planc.runtime.cuda.source import BLOCK, PREAMBLE, VECTOR_BYTES, Operand
from planc.runtime.ort.c_api import api_table
from planc.runtime.ort.custom_ops import Operator


@cache
def can_fuse() -> bool:
    """Whether NVRTC loads and ONNX Runtime takes operators of planc's own."""
    return can_compile() and api_table() is not None


def fused_operators(model: onnx.ModelProto, operands: Mapping[str, Operand]) -> list[Operator]:
    """Give every fused node an operator for its operands, and take the functions out. Raises DeviceError."""
    functions = {function.name: function for function in model.functions if function.domain == DOMAIN}
    kernels: dict[str, _Kernel] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            inputs, outputs = (tuple(operands[name] for name in names) for names in (node.input, node.output))
            kernel = _Kernel(functions[node.op_type], inputs, outputs)
            node.op_type = kernel.name
            kernels[node.op_type] = kernel
    load({kernel.name: kernel.text(wide=kernel.fits) for kernel in kernels.values()}, PREAMBLE)
    return [_operator(kernel) for kernel in kernels.values()]


class _Kernel:
    """A function with the types of its operands; `name` is made of what it computes."""

    def __init__(self, function: onnx.FunctionProto, inputs: tuple[Operand, ...], outputs: tuple[Operand, ...]) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs
        content = function.SerializeToString(deterministic=True) + f"{inputs} {outputs}".encode()
        self.name = f"fused_{hashlib.sha256(content).hexdigest()[:16]}"
        self.fits = reads_vectors(function, inputs, outputs)

    def text(self, wide: bool) -> str:
        """CUDA C; where the kernel is not `wide` though it could be, its name says so."""
        name = self.name if wide == self.fits else f"{self.name}_narrow"
        return pass_source(name, self.function, self.inputs, self.outputs, wide)


def _operator(kernel: _Kernel) -> Operator:
    return Operator(
        name=kernel.name,
        inputs=[o.element_type for o in kernel.inputs],
        outputs=[o.element_type for o in kernel.outputs],
        shapes=[o.shape for o in kernel.outputs],
        run=partial(_run, kernel, pass_blocks(kernel.function, kernel.inputs, kernel.outputs)),
    )


def _run(kernel: _Kernel, grid: int, addresses: Sequence[int], stream: int) -> None:
    """Queue the kernel: another one where an address is none of a vector."""
    if not grid:
        return
    known, name = handles(), kernel.name
    if kernel.fits and any(address % VECTOR_BYTES for address in addresses):
        name = f"{kernel.name}_narrow"
        if name not in known:
            load({name: kernel.text(wide=False)}, PREAMBLE)
    launch(known[name], (grid, 1, 1), BLOCK, addresses, stream)
