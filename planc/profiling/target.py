"""What a user means by a device, and the graph that it is to run: with fused operators where it has kernels for them."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from planc.costs.catalogue import card_names, unknown_device
from planc.costs.table import CostTable
from planc.devices import AUTO, DEVICES, DeviceKind, find_device, preferred_device
from planc.importer.import_model import ImportedModel, import_for, import_model
from planc.importer.load import ModelFile

_CARD_KIND = "cuda"
"""The kind of device that the catalogue's cards are."""


@dataclass(frozen=True)
class Target:
    """A device of this machine, or a `card` of the catalogue, for which costs are estimated."""

    name: str
    kind: DeviceKind
    index: int
    card: str | None = None

    @property
    def forms(self) -> str:
        """The operator forms that suit it."""
        return self.kind.forms

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
        return Target(name, DEVICES[_CARD_KIND], 0, name)
    found = find_device(name)
    if found is None:
        raise unknown_device(text)
    return Target(name, *found)


def import_to_run_on(
    source: str | Path | onnx.ModelProto | ModelFile, device: str, fuse: bool = True, costs: CostTable | None = None
) -> ImportedModel:
    """Import a training step for `device`, or as it was when given `costs` were measured.

    Element-wise operators are fused, unless `fuse` forbids it, for cards of the catalogue and for devices that have
    kernels for them. Raises ModelError, and UsageError for an unknown device.
    """
    if costs is not None:
        return import_for(source, costs.model_hash)
    target = target_of(device)
    return import_model(source, fused=fuse and target.fuses)
