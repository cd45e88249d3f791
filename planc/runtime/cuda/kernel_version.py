"""The version of planc's own kernels that a step uses: a hash of their texts, launches and workspaces.

Kernels that the step does not use do not count: a new one for attention leaves what is known of ResNet-50.
"""

import hashlib
from collections.abc import Iterator

from planc.graph.fused import DOMAIN as FUSED
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import element_type
from planc.kernels.device import CudaKernel, CudnnKernel, SourceKernel
from planc.runtime.cuda.group_source import pass_source
from planc.runtime.cuda.source import Operand


def kernel_version(imported: ImportedModel) -> str:
    """The version of the kernels that a step uses on a card; empty where it uses none."""
    texts = sorted({*_own_texts(imported), *_fused_texts(imported)})
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16] if texts else ""


def _own_texts(imported: ImportedModel) -> Iterator[str]:
    for name, call in imported.calls.items():
        kernel = call.operator.cuda(call) if call.operator.cuda else None
        yield f"{name} {'' if kernel is None else _described(kernel)}"


def _described(kernel: CudaKernel) -> str:
    """All that decides what a kernel computes and takes; of a library's call what it is asked for."""
    if isinstance(kernel, CudnnKernel):
        return f"{kernel.inputs} {kernel.outputs} {kernel.compute} {kernel.notes}"
    if isinstance(kernel, SourceKernel):
        return f"{kernel.source} {[str(step) for step in kernel.launches]} {kernel.workspace} {kernel.contract}"
    return " ".join(f"{name} {_described(variant)}" for name, variant in kernel.kernels.items())


def _fused_texts(imported: ImportedModel) -> Iterator[str]:
    for op in imported.graph.ops:
        if op.domain == FUSED:
            inputs, outputs = ([_operand(imported, t) for t in ids] for ids in (op.inputs, op.outputs))
            yield pass_source("fused", imported.functions[op.op_type], inputs, outputs, wide=False)


def _operand(imported: ImportedModel, tensor: int) -> Operand:
    return Operand(element_type(imported, tensor), imported.graph.tensors[tensor].shape)
