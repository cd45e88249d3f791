"""A meter that measures nothing and counts what it is asked for."""

from collections.abc import Sequence

from planc.costs.table import CopyPoint, DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import SubModel


class CountingMeter:
    """Says that a layer takes 1 µs for each operator alone, and half of that in company."""

    def __init__(self, stretch_bytes: int, broken: str = "") -> None:
        self.stretch_bytes, self.broken = stretch_bytes, broken
        self.layers = self.stretches = self.links = 0
        self.closed = False

    def layer(self, _imported: ImportedModel, model: SubModel) -> LayerCost:
        if self.broken and self.layers == 3:
            raise RuntimeError(self.broken)
        self.layers += 1
        return LayerCost(compute_ns=1000 * operators(model), scratch_bytes=64)

    def engines(self, _imported: object) -> dict[str, tuple[EngineCost, ...]]:
        return {}

    def workspace_forms(self, *_: object) -> dict[str, FormCost]:
        return {}

    def forms(self, _imported: ImportedModel, _model: SubModel) -> dict[str, FormCost]:
        return {
            "slow": FormCost(compute_ns=10**9, scratch_bytes=64),
            "small": FormCost(compute_ns=10**9, scratch_bytes=0),
            "fast": FormCost(compute_ns=500, scratch_bytes=1 << 20),
        }

    def stretch(self, _imported: ImportedModel, model: SubModel) -> int:
        self.stretches += 1
        return 500 * operators(model)

    def link(self, _host_tier: str | None) -> Link:
        self.links += 1
        return Link(points=(CopyPoint(size=64, out_ns=1, in_ns=1),))

    def boundary_ns(self) -> int:
        return 7

    def session_bytes(self, _imported: ImportedModel, models: Sequence[SubModel]) -> int:
        return 1000 * len({model.signature for model in models})

    def device(self) -> DeviceInfo:
        return DeviceInfo(name="counted", kind="cpu", memory_bytes=1)

    def close(self) -> None:
        self.closed = True


def operators(model: SubModel) -> int:
    """How many operators a stretch has."""
    return len({port.position for port in model.outputs})
