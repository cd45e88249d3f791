"""The version of the kernels that a step uses on the CPU."""

from planc.graph.graph import Graph
from planc.importer.import_model import ImportedModel
from planc.kernels import DOMAIN, operator_named
from planc.libraries import onednn_version


def kernel_version(imported: ImportedModel) -> str:
    """oneDNN's, where the step has operators that it computes, also where it is not installed; empty for other steps."""
    return version_for(imported.graph)


def version_for(graph: Graph) -> str:
    """The same for a graph alone."""
    own = {op.op_type.rpartition("_")[0] for op in graph.ops if op.domain == DOMAIN}
    return onednn_version() if any(operator_named(name).cpu for name in own) else ""
