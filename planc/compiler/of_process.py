"""A budget for all that a process takes on the CPU: `process:200MiB`."""

from planc.costs.table import CostTable
from planc.devices import find_device
from planc.enums import HostTierKind
from planc.errors import InfeasibleBudgetError, UsageError
from planc.importer.import_model import ImportedModel
from planc.runtime.beside import beside_bytes
from planc.runtime.file_tier import BUFFER_BYTES
from planc.units import format_bytes, parse_size

PROCESS = "process:"

_MIB = 1 << 20


def within_process(
    imported: ImportedModel, costs: CostTable, text: str, roomy_bytes: int, least: tuple[int, str]
) -> int:
    """The budget (bytes) of slab and scratch with which a process grows by the size behind `process:`, 5 % more or less.

    A share is one of what the process takes with a plan of `roomy_bytes`, which gives nothing up. Raises UsageError for a
    device with memory of its own and a size that cannot be read, InfeasibleBudgetError where less than the `least`
    that any plan needs is left; it names the layer that sets this.
    """
    found = find_device(costs.device.kind)
    if found is None or not found[0].in_process:
        raise UsageError(
            f"budget {text!r}: a plan for {costs.device.kind} has a memory of its own; leave {PROCESS} out"
        )
    beside = beside_bytes(imported) + (BUFFER_BYTES if costs.link.tier is HostTierKind.FILE else 0)
    whole = parse_size(text.removeprefix(PROCESS), roomy_bytes + beside)
    least_bytes, layer = least
    if whole - beside < least_bytes:
        enough = least_bytes + beside
        raise InfeasibleBudgetError(
            f"budget {text!r} is too small: beside its plan the process takes {format_bytes(beside)} for code, sessions "
            f"and batches, and a plan needs {format_bytes(least_bytes)}: give {PROCESS}{-(-enough // _MIB)}MiB or more",
            enough,
            layer,
            whole,
        )
    return whole - beside
