"""Kernels of planc's own operators inside ONNX Runtime's sessions on a card.

A model says with ONNX functions what its operators compute; here those that have a kernel become operators of ONNX
Runtime, and their functions are taken out. The functions of the others stay, and the provider runs their parts.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import onnx

from planc.errors import DeviceError
from planc.kernels import Call, TensorType
from planc.kernels.device import WORKSPACE, Buffer, CudnnKernel, Product, SourceKernel, Variants
from planc.kernels.engines import EngineTable, chosen
from planc.runtime.cuda import blas
from planc.runtime.cuda.compiler import allow_shared, handles, launch, load
from planc.runtime.cuda.cudnn import built
from planc.runtime.ort.custom_ops import Operator
from planc.runtime.ort.own import replaced

_Runs = Callable[[Sequence[int], int], None]


def own_operators(
    model: onnx.ModelProto, types: Mapping[str, TensorType], table: EngineTable, form: str = ""
) -> list[Operator]:
    """Give every node of planc's domain that has a kernel an operator of its own, and take its function out.

    Nodes that are marked with no form run in `form`. Calls that the table does not name run by the engine that the library
    prefers. Raises DeviceError.
    """

    def operator(name: str, call: Call, own: str | None) -> Operator | None:
        return _operator(name, call, chosen(table, form if own is None else own).get(name, ""))

    return replaced(model, types, operator)


def _operator(name: str, call: Call, engine: str) -> Operator | None:
    """The operator of a call, None where it has no kernel."""
    kernel = call.operator.cuda(call) if call.operator.cuda else None
    if kernel is None:
        return None
    run: _Runs
    if isinstance(kernel, CudnnKernel):
        graph = built(name, kernel, engine)
        run, workspace, suffix = graph.run, graph.workspace, _short(f"{graph.engine} {graph.workspace}")
    elif isinstance(kernel, Variants):
        variant = _variant(name, kernel, engine or next(iter(kernel.kernels)))
        run, workspace, suffix = variant.run, variant.workspace, variant.engine
    else:
        run, workspace, suffix = source_kernel(name, kernel), kernel.workspace, "source"
    return Operator(
        name=f"{name}_{suffix}",
        inputs=[t.dtype for t in call.inputs],
        outputs=[t.dtype for t in call.outputs],
        shapes=[t.shape for t in call.outputs],
        run=run,
        workspace=workspace,
    )


@dataclass(frozen=True)
class BuiltVariant:
    """A variant of a call, ready to run as a library's engine is. `workspace` is in bytes."""

    engine: str
    workspace: int
    run: _Runs


def built_variants(name: str, kernel: Variants) -> list[BuiltVariant]:
    """The variants of a call, compiled. Raises DeviceError."""
    return [_variant(name, kernel, engine) for engine in kernel.kernels]


def _variant(name: str, kernel: Variants, engine: str) -> BuiltVariant:
    if engine not in kernel.kernels:
        raise DeviceError(f"{name}: the plan pins {engine!r}; there are {', '.join(kernel.kernels)}: compile again")
    chosen = kernel.kernels[engine]
    return BuiltVariant(engine, chosen.workspace, source_kernel(name, chosen))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Step:
    """A launch with its function's name, and where its arguments are among the operands."""

    function: str
    grid: tuple[int, int, int]
    block: int
    shared: int
    arguments: tuple[Buffer, ...]


def source_kernel(name: str, kernel: SourceKernel) -> _Runs:
    """What a run does, the kernel compiled."""
    steps = [
        step
        if isinstance(step, Product)
        else _Step(step.function.replace("PREFIX", name), step.grid, step.block, step.shared, step.arguments)
        for step in kernel.launches
    ]
    own = [step for step in steps if isinstance(step, _Step)]
    if len(own) < len(steps):
        blas.prepare()
    text = f"namespace of_{name} {{\n{kernel.source.replace('PREFIX', name)}}}\n"
    load({step.function: text for step in own}, contract=kernel.contract)
    for step in own:
        allow_shared(handles()[step.function], step.shared)
    narrow = None if kernel.narrow is None else cache(partial(source_kernel, f"{name}_narrow", kernel.narrow))
    return partial(_launch, steps, kernel.alignment, narrow)


def _launch(
    steps: Sequence[_Step | Product],
    alignment: int,
    narrow: Callable[[], _Runs] | None,
    addresses: Sequence[int],
    stream: int,
) -> None:
    if narrow is not None and any(address % alignment for address in addresses):
        narrow()(addresses, stream)
        return
    known = handles()
    for step in steps:
        if isinstance(step, Product):
            blas.multiply(step, [_at(b, addresses) for b in (step.a, step.b, step.c, step.scratch)], stream)
            continue
        given = [_at(b, addresses) for b in step.arguments]
        launch(known[step.function], step.grid, step.block, given, stream, step.shared)


def _at(buffer: Buffer, addresses: Sequence[int]) -> int:
    """The address of an argument; that of the workspace is the last."""
    return addresses[WORKSPACE if buffer.position == WORKSPACE else buffer.position] + buffer.offset
