"""Cost tables kept between commands, by model, device and versions."""

import hashlib
import os
import warnings
from pathlib import Path

from platformdirs import user_cache_path

from planc.costs.catalogue import estimate
from planc.costs.store import read_costs, write_costs
from planc.costs.table import CostTable
from planc.errors import DeviceError, OutputError, PlancWarning
from planc.importer.import_model import ImportedModel
from planc.profiling.meter import Progress
from planc.profiling.profile import profile
from planc.profiling.target import Target, target_of
from planc.runtime.ort.sessions import versions
from planc.runtime.tiers import chosen_tier


def costs_for(
    imported: ImportedModel, device: str, progress: Progress = lambda *_: None, host_tier: str | None = None
) -> CostTable:
    """The cost table of a model on `device` with `host_tier`, measured on first use, or estimated for a card of the
    catalogue.

    `auto` is the best device that is usable. Raises UsageError for an unknown device.
    """
    target = target_of(device)
    if target.card is not None:
        return estimate(imported.graph, target.card)
    path = _folder() / f"{_key(imported, target, host_tier)}.json"
    try:
        table = read_costs(path)
        table.check_model(imported.graph.content_hash, len(imported.graph.layers))
        return table
    except DeviceError:
        pass  # not there yet, damaged or outdated: measured again
    table = fresh_costs(imported, target.name, progress, host_tier=host_tier)
    _keep(table, path)
    return table


def _keep(table: CostTable, path: Path) -> None:
    """Write the table for the next command; where that fails, this one goes on with what it has measured."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_costs(table, path)
    except (OSError, OutputError) as error:
        text = f"the measured costs are not kept: {error}; set PLANC_CACHE_DIR to a folder that can be written"
        warnings.warn(text, PlancWarning, stacklevel=3)


def fresh_costs(
    imported: ImportedModel,
    device: str,
    progress: Progress = lambda *_: None,
    forms: bool = False,
    host_tier: str | None = None,
) -> CostTable:
    """The same, measured now; with `forms` other forms of layers too, see `planc.profiling.profile.profile`."""
    target = target_of(device)
    if target.card is not None:
        return estimate(imported.graph, target.card)
    return profile(imported, target.name, progress, forms, host_tier)


def _folder() -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    return Path(given) if given else user_cache_path("planc") / "costs"


def _key(imported: ImportedModel, target: Target, host_tier: str | None) -> str:
    machine = target.kind.identity(target.index)
    parts = [
        imported.graph.content_hash,
        chosen_tier(host_tier),
        *machine,
        *sorted(f"{k}={v}" for k, v in versions().items()),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
