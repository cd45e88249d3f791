"""One convolution by oneDNN: operands come and go in the layouts of the graph, and are reordered where the library's own
layout is another.

What is reordered, and the library's scratch, lie in one workspace whose size is known before anything runs.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from onnx import TensorProto

from planc.errors import DeviceError
from planc.kernels.device import ConvolutionKernel, Pass
from planc.runtime.onednn.library import Argument, Handle, Library, sizes
from planc.units import align_up

_DTYPES: dict[int, int] = {TensorProto.FLOAT16: 1, TensorProto.BFLOAT16: 2, TensorProto.FLOAT: 3}
_DIRECT, _FORWARD_TRAINING = 1, 64
_ALIGNMENT = 64

# (query of the primitive description, role among the arguments) of X, W and Y in each pass.
_SCRATCHPAD = (136, 80)
_ROLES = {
    Pass.FORWARD: ((129, 1), (131, 33), (133, 17)),
    Pass.INPUT_GRADIENT: ((130, 129), (131, 33), (134, 145)),
    Pass.WEIGHT_GRADIENT: ((129, 1), (132, 161), (134, 145)),
}
_RESULT = {Pass.FORWARD: 2, Pass.INPUT_GRADIENT: 0, Pass.WEIGHT_GRADIENT: 1}
_FROM, _TO = 1, 17


@dataclass
class _Step:
    """A primitive with its arguments."""

    primitive: Handle
    arguments: "ctypes.Array[Argument]"


@dataclass
class Convolution:
    """A convolution, ready to run. `workspace` bytes are needed at each run. Raises DeviceError where oneDNN has none."""

    library: Library
    kernel: ConvolutionKernel
    workspace: int = 0
    _outside: list[Handle] = field(default_factory=list)
    _inside: list[tuple[Handle, int]] = field(default_factory=list)
    _steps: list[_Step] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        kernel, description = self.kernel, self._description()
        arguments, after = list[tuple[int, Handle]](), list[_Step]()
        for position, (query, role) in enumerate(_ROLES[kernel.which]):
            wanted = self.library.wanted(description, query)
            operand = kernel.operands[position]
            given = self.library.strided(operand.dims, operand.strides, _DTYPES[operand.dtype])
            memory = self.library.memory(given)
            self._outside.append(memory)
            if not self.library.same(wanted, given):
                own = self._within(wanted)
                if position == _RESULT[kernel.which]:
                    after.append(self._reorder(wanted, own, given, memory))
                else:
                    self._steps.append(self._reorder(given, memory, wanted, own))
                memory = own
            arguments.append((role, memory))
        query, role = _SCRATCHPAD
        arguments.append((role, self._within(self.library.wanted(description, query))))
        self._steps += [self._step(description, arguments), *after]

    def run(self, addresses: Sequence[int]) -> None:
        """Compute from the addresses of both inputs, the output, and the workspace where there is one."""
        base = align_up(addresses[3], _ALIGNMENT) if self.workspace else 0
        with self._lock:  # sessions of several steps share it
            for memory, at in zip(self._outside, self.kernel.places, strict=True):
                self.library.place(memory, addresses[at])
            for memory, offset in self._inside:
                self.library.place(memory, base + offset)
            for step in self._steps:
                self.library.execute(step.primitive, step.arguments)

    def _description(self) -> Handle:
        """The primitive description, in the layouts that oneDNN likes best."""
        kernel, library = self.kernel, self.library
        x, w, y = (library.any_layout(o.dims, _DTYPES[o.dtype]) for o in kernel.operands)
        window = [sizes(v) for v in (kernel.strides, [d - 1 for d in kernel.dilations], *kernel.pads)]
        forward = library.made(
            "dnnl_convolution_forward_primitive_desc_create", library.engine, ctypes.c_int(_FORWARD_TRAINING),
            ctypes.c_int(_DIRECT), x, w, None, y, *window, library.attributes,
        )  # fmt: skip
        if kernel.which is Pass.FORWARD:
            return forward
        if kernel.which is Pass.INPUT_GRADIENT:
            name, bias = "dnnl_convolution_backward_data_primitive_desc_create", tuple[None, ...]()
        else:
            name, bias = "dnnl_convolution_backward_weights_primitive_desc_create", (None,)
        return library.made(
            name, library.engine, ctypes.c_int(_DIRECT), x, w, *bias, y, *window, forward, library.attributes
        )

    def _within(self, description: Handle) -> Handle:
        """A memory object in the workspace."""
        size = self.library.size(description)
        memory = self.library.memory(description)
        self._inside.append((memory, max(0, self.workspace - _ALIGNMENT)))
        if size:  # the first bytes align the workspace's own address
            self.workspace = max(self.workspace, _ALIGNMENT) + align_up(size, _ALIGNMENT)
        return memory

    def _reorder(self, source: Handle, from_: Handle, target: Handle, to: Handle) -> _Step:
        library = self.library
        description = library.made(
            "dnnl_reorder_primitive_desc_create", source, library.engine, target, library.engine, library.attributes
        )
        if library.size(library.wanted(description, _SCRATCHPAD[0])):
            raise DeviceError("oneDNN's reorder of an operand wants scratch of its own")
        return self._step(description, [(_FROM, from_), (_TO, to)])

    def _step(self, description: Handle, arguments: Sequence[tuple[int, Handle]]) -> _Step:
        filled = (Argument * len(arguments))(*(Argument(role, memory) for role, memory in arguments))
        return _Step(self.library.made("dnnl_primitive_create", description), filled)
