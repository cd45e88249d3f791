"""What a user means by a device, and the graph that it is to run: with fused operators where it has kernels for them."""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from planc.costs.catalogue import CARD_KIND, card_names, unknown_device
from planc.costs.table import CostTable
from planc.devices import AUTO, DEVICES, DeviceKind, find_device, preferred_device
from planc.errors import ModelError
from planc.importer.import_model import ImportedModel, import_for, import_model
from planc.importer.load import ModelFile
from planc.training.emit.forms import suited

_HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Target:
    """A device of this machine, or a `card` of the catalogue, for which costs are estimated."""

    name: str
    kind: DeviceKind
    index: int
    card: str | None = None

    @property
    def forms(self) -> str:
        """The operator forms that suit it on this machine."""
        return suited(self.kind.forms)

    @property
    def fuses(self) -> bool:
        """Whether fused operators are meant for it."""
        return self.card is not None or self.kind.fuses()


def target_of(text: str) -> Target:
    """The target meant by `cpu`, `cuda`, `cuda:INDEX`, a card of the catalogue, or `auto`: the best that is usable.

    Raises UsageError for anything else.
    """
    name = text.lower()
    if name == AUTO:
        kind = preferred_device()
        return Target(kind.name, kind, 0)
    if name in card_names():
        return Target(name, DEVICES[CARD_KIND], 0, name)
    found = find_device(name)
    if found is None:
        raise unknown_device(text)
    return Target(name, *found)


def forms_of(name: str) -> str:
    """The operator forms of that name; `auto` means those that suit this machine."""
    return target_of(name).forms if name == AUTO else name


def import_to_run_on(
    source: str | Path | onnx.ModelProto | ModelFile, device: str, fuse: bool = True, costs: CostTable | None = None
) -> ImportedModel:
    """Import a training step for `device`, or as it was when given `costs` were measured.

    Element-wise operators are fused, unless `fuse` forbids it, for cards of the catalogue and for devices that have
    kernels for them. Raises ModelError, also for an operator in half precision that the device has no kernel for, and
    UsageError for an unknown device.
    """
    if costs is not None:
        return import_for(source, costs.model_hash)
    target = target_of(device)
    found = import_model(source, fused=fuse and target.fuses)
    _require_kernels(found, target)
    return found


def _require_kernels(found: ImportedModel, target: Target) -> None:
    types = {t.name: _HALVES[t.dtype] for t in found.graph.tensors if t.dtype in _HALVES}
    if not types:
        return
    from planc.training.emit.widen import without_kernel  # takes long to import, and few graphs need it

    node = without_kernel(found.nodes, types, target.kind.forms)
    if node is not None:
        raise ModelError(
            f"{found.file.title}: node {node.name or node.output[0]!r} ({node.op_type}) computes in half precision, for "
            f"which ONNX Runtime has no kernel on {target.name}: it would compute in float32 between casts that no plan "
            "knows of; `planc widen MODEL -o WIDE` (in Python planc.widen) writes them into the graph"
        )
