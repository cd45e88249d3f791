"""Cost tables kept between commands, by model, device and versions."""

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path

from planc.costs.host import host_info
from planc.costs.profile import Progress, profile_cpu
from planc.costs.table import CostTable, read_costs, write_costs
from planc.errors import DeviceError, UsageError
from planc.importer.build import ImportedModel
from planc.runtime.ort import versions


def costs_for(imported: ImportedModel, device: str, progress: Progress = lambda *_: None) -> CostTable:
    """The cost table of a model on `device`, measured on first use. Raises UsageError for an unknown device."""
    check_device(device)
    path = _folder() / f"{_key(imported)}.json"
    if path.exists():
        try:
            table = read_costs(path)
            table.check_model(imported.graph.content_hash, len(imported.graph.layers))
            return table
        except DeviceError:
            pass  # a damaged or outdated cache entry is measured again
    table = profile_cpu(imported, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_costs(table, path)
    return table


def check_device(device: str) -> None:
    """Raise UsageError unless this planc can measure and run on `device`."""
    if device != "cpu":
        raise UsageError(f"unknown device {device!r}: this planc measures and runs on cpu")


def _folder() -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    return Path(given) if given else user_cache_path("planc") / "costs"


def _key(imported: ImportedModel) -> str:
    host = host_info()
    parts = [
        imported.graph.content_hash,
        host.name,
        str(host.threads),
        *sorted(f"{k}={v}" for k, v in versions().items()),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
