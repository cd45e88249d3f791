"""Cost tables kept between commands, by model, device and versions."""

import hashlib
import os
import warnings
from pathlib import Path

import msgspec
from platformdirs import user_cache_path

from planc.costs.catalogue import estimate
from planc.costs.store import read_costs, read_exchange, write_costs
from planc.costs.table import CostTable, ExchangeLink
from planc.errors import DeviceError, OutputError, PlancWarning
from planc.importer.import_model import ImportedModel
from planc.profiling.exchange import measure_exchange
from planc.profiling.meter import Progress
from planc.profiling.once import Measured
from planc.profiling.profile import profile
from planc.profiling.target import Target, target_of
from planc.runtime.ort.sessions import versions
from planc.runtime.own_kernels import require_kernels
from planc.runtime.tiers import chosen_tier


def costs_for(
    imported: ImportedModel,
    device: str,
    progress: Progress = lambda *_: None,
    host_tier: str | None = None,
    measured: Measured | None = None,
) -> CostTable:
    """The cost table of a model on `device` with `host_tier`, measured on first use, or estimated for a card of the
    catalogue. What is in `measured`, of other models on that device, is not measured again.

    `auto` is the best device that is usable. Raises UsageError for an unknown device.
    """
    target = target_of(device)
    if target.card is not None:
        return estimate(imported.graph, target.card, imported.calls)
    path = _folder() / f"{_key(imported, target, host_tier)}.json"
    known, ranks = measured or Measured(), imported.graph.ranks
    table = _kept_or_fresh(imported, target, path, progress, host_tier, known)
    if ranks == 1:
        return table
    link = known.once(("exchange", ranks), lambda: _exchange(ranks, target, progress))
    return msgspec.structs.replace(table, exchange=link)


def _exchange(ranks: int, target: Target, progress: Progress) -> ExchangeLink:
    """The way between the ranks' devices, measured on first use."""
    words = [str(ranks), *target.kind.identity(target.index), *sorted(f"{k}={v}" for k, v in versions().items())]
    path = _folder() / f"exchange-{hashlib.sha256('|'.join(words).encode()).hexdigest()[:32]}.json"
    try:
        return read_exchange(path)
    except DeviceError:
        pass  # as above
    progress(0, 1, "exchanges")
    link = measure_exchange(ranks, target)
    _keep(link, path)
    return link


def _kept_or_fresh(
    imported: ImportedModel, target: Target, path: Path, progress: Progress, host_tier: str | None, measured: Measured
) -> CostTable:
    try:
        table = read_costs(path)
        table.check_model(imported.graph.content_hash, len(imported.graph.layers))
        require_kernels(imported, table.device.kind, table.device.versions, str(path))
        return table
    except DeviceError:
        pass  # not there yet, damaged or outdated: measured again
    table = profile(imported, target.name, progress, host_tier=host_tier, measured=measured)
    _keep(table, path)
    return table


def _keep(table: CostTable | ExchangeLink, path: Path) -> None:
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
        return estimate(imported.graph, target.card, imported.calls)
    table = profile(imported, target.name, progress, forms, host_tier)
    if imported.graph.ranks > 1:
        table = msgspec.structs.replace(table, exchange=measure_exchange(imported.graph.ranks, target))
    return table


def _folder() -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    return Path(given) if given else user_cache_path("planc") / "costs"


def plan_folder() -> Path:
    """Where plans are kept: in PLANC_CACHE_DIR, or the user's cache."""
    given = os.environ.get("PLANC_CACHE_DIR")
    return (Path(given) if given else user_cache_path("planc")) / "plans"


def _key(imported: ImportedModel, target: Target, host_tier: str | None) -> str:
    machine = target.kind.identity(target.index)
    parts = [
        imported.graph.content_hash,
        chosen_tier(host_tier),
        *machine,
        *sorted(f"{k}={v}" for k, v in versions().items()),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
