"""Cost tables kept between commands, by model, device and versions."""

import hashlib
import os
import warnings
from pathlib import Path

from platformdirs import user_cache_path

from planc.costs.catalogue import card_names, estimate, unknown_device
from planc.costs.store import read_costs, write_costs
from planc.costs.table import CostTable
from planc.errors import DeviceError, OutputError, PlancWarning
from planc.importer.import_model import ImportedModel
from planc.profiling.host import host_info
from planc.profiling.meter import Progress
from planc.profiling.profile import profile
from planc.runtime.cuda.driver import Context
from planc.runtime.open import default_device
from planc.runtime.ort.sessions import versions

AUTO = "auto"


def costs_for(imported: ImportedModel, device: str, progress: Progress = lambda *_: None) -> CostTable:
    """The cost table of a model on `device`, measured on first use, or estimated for a card of the catalogue.

    `auto` is CUDA where it is usable, else the CPU. Raises UsageError for an unknown device.
    """
    device = known_device(device)
    if device in card_names():
        return estimate(imported.graph, device)
    path = _folder() / f"{_key(imported, device)}.json"
    try:
        table = read_costs(path)
        table.check_model(imported.graph.content_hash, len(imported.graph.layers))
        return table
    except DeviceError:
        pass  # not there yet, damaged or outdated: measured again
    table = fresh_costs(imported, device, progress)
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
    imported: ImportedModel, device: str, progress: Progress = lambda *_: None, forms: bool = False
) -> CostTable:
    """The same, measured now; with `forms` other forms of layers too, see `planc.profiling.profile.profile`."""
    device = known_device(device)
    if device in card_names():
        return estimate(imported.graph, device)
    return profile(imported, device, progress, forms)


def known_device(text: str) -> str:
    """`cpu`, `cuda`, `cuda:INDEX` or a card of the catalogue, in small letters; `auto` becomes the first that is usable.

    Raises UsageError for anything else.
    """
    device = text.lower()
    if device == AUTO:
        return default_device()
    kind, colon, index = device.partition(":")
    if device in ("cpu", *card_names()) or (kind == "cuda" and (index.isdecimal() or not colon)):
        return device
    raise unknown_device(text)


def _folder() -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    return Path(given) if given else user_cache_path("planc") / "costs"


def _key(imported: ImportedModel, device: str) -> str:
    parts = [imported.graph.content_hash, *_machine(device), *sorted(f"{k}={v}" for k, v in versions().items())]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _machine(device: str) -> tuple[str, ...]:
    """What tells this device from others of its kind."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        context = Context(int(index or 0))
        info = context.info()
        context.close()
        return device, info.name, info.driver_version
    host = host_info()
    return host.name, str(host.threads)
