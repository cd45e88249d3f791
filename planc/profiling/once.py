"""A meter that measures nothing twice: graphs of one device have layers in common, such as those of a step's ranks."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from planc.costs.table import DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import SubModel
from planc.profiling.meter import Meter

T = TypeVar("T")


class Measured:
    """What was measured on one device, by what it is of."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, measure: Callable[[], T]) -> T:
        """What was measured of `key`, now or before."""
        if key not in self._found:
            self._found[key] = measure()
        found: T = self._found[key]
        return found


class OnceMeter:
    """Asks `meter` for what is not in `measured`. What belongs to a whole graph is asked for every time."""

    def __init__(self, meter: Meter, measured: Measured) -> None:
        self._meter, self._once = meter, measured.once
        self.stretch_bytes = meter.stretch_bytes

    def layer(self, imported: ImportedModel, model: SubModel) -> LayerCost:
        """Of equal layers, the cost of the first."""
        return self._once(("layer", model.signature), lambda: self._meter.layer(imported, model))

    def engines(self, imported: ImportedModel) -> dict[str, tuple[EngineCost, ...]]:
        """Of equal calls, which have one name, the engines of the first."""
        found = {name: self._engines(imported, name) for name in imported.calls}
        return {name: engines for name, engines in found.items() if engines}

    def _engines(self, imported: ImportedModel, name: str) -> tuple[EngineCost, ...]:
        alone = replace(imported, calls={name: imported.calls[name]})
        return self._once(("engines", name), lambda: self._meter.engines(alone).get(name, ()))

    def workspace_forms(
        self, imported: ImportedModel, model: SubModel, cost: LayerCost, engines: Mapping[str, Sequence[EngineCost]]
    ) -> dict[str, FormCost]:
        """Of equal layers, those of the first."""
        key = ("workspace", model.signature)
        return self._once(key, lambda: self._meter.workspace_forms(imported, model, cost, engines))

    def forms(self, imported: ImportedModel, model: SubModel) -> dict[str, FormCost]:
        """Of equal layers, those of the first."""
        return self._once(("forms", model.signature), lambda: self._meter.forms(imported, model))

    def stretch(self, imported: ImportedModel, model: SubModel) -> int:
        """Of equal stretches, the time (ns) of the first."""
        return self._once(("stretch", model.signature), lambda: self._meter.stretch(imported, model))

    def link(self, host_tier: str | None) -> Link:
        """Of each tier once."""
        return self._once(("link", host_tier), lambda: self._meter.link(host_tier))

    def boundary_ns(self) -> int:
        """Once."""
        return self._once("boundary", self._meter.boundary_ns)

    def session_bytes(self, imported: ImportedModel, models: Sequence[SubModel]) -> int:
        """Of every graph: it is the mean over examples."""
        return self._meter.session_bytes(imported, models)

    def device(self) -> DeviceInfo:
        """As it is now."""
        return self._meter.device()

    def close(self) -> None:
        """Close the meter; what was measured stays."""
        self._meter.close()
