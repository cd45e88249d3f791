"""What a process on the CPU is expected to take beside a plan's slab, scratch and host tier; all sizes in bytes.

The figures are fitted to zoo networks and PyTorch exports, portable and with oneDNN (docs/results/memory.md).
"""

from planc.graph.graph import Role
from planc.importer.import_model import ImportedModel
from planc.libraries import onednn_path

_LIBRARIES_BYTES, _NODE_BYTES = 17 << 20, 13517
"""Code that is loaded with the first model; a node: in the graph, and in the session that runs it (13.2 KiB)."""

_KERNELS_BYTES, _KERNEL_BYTES = 17 << 20, 174 << 10
"""oneDNN's library where a convolution is its own, and every distinct convolution: generated code."""

_STEP_BYTES, _PART_BYTES = 6 << 20, 20 << 10
"""What the first step leaves: the heap of operators, stacks of threads; the bindings of a part."""

_LAYERS_A_PART = 4
"""How many layers a part has, about, before a plan is known."""


def beside_bytes(imported: ImportedModel, parts: int | None = None) -> int:
    """By how much a process grows beside its plan's memory, from before the model is read to the end of a step, the batch
    of the caller included. `parts` run in a step; None where no plan is known yet.

    Initial values pass through memory one at a time, and are gone when the first step begins.
    """
    graph = imported.graph
    batch = sum(t.nbytes for t in (graph.tensors[i] for i in graph.inputs) if _is_batch(imported, t.storage))
    largest = max((graph.tensors[i].nbytes for i in graph.state), default=0)
    count = len(graph.layers) // _LAYERS_A_PART if parts is None else parts
    loaded = _LIBRARIES_BYTES + len(graph.ops) * _NODE_BYTES + _kernels(imported)
    return loaded + max(largest, _STEP_BYTES + batch + count * _PART_BYTES)


def _is_batch(imported: ImportedModel, storage: int) -> bool:
    return imported.graph.storages[storage].role is Role.BATCH


def _kernels(imported: ImportedModel) -> int:
    """What the kernels of oneDNN take, where it is installed."""
    count = sum(call.operator.cpu is not None for call in imported.calls.values())
    return _KERNELS_BYTES + count * _KERNEL_BYTES if count and onednn_path() else 0
