"""The graph that a device is to run: with fused operators where there will be kernels for them."""

from pathlib import Path

import onnx

from planc.costs.catalogue import card_names
from planc.costs.table import CostTable
from planc.importer.import_model import ImportedModel, import_for, import_model
from planc.importer.load import ModelFile
from planc.profiling.cache import known_device
from planc.runtime.cuda.fused import can_fuse


def import_to_run_on(
    source: str | Path | onnx.ModelProto | ModelFile, device: str, fuse: bool = True, costs: CostTable | None = None
) -> ImportedModel:
    """Import a training step for `device`, or as it was when given `costs` were measured.

    Element-wise operators are fused, unless `fuse` forbids it, for cards of the catalogue and, where NVRTC is installed,
    for CUDA. Raises ModelError, and UsageError for an unknown device.
    """
    if costs is not None:
        return import_for(source, costs.model_hash)
    device = known_device(device)
    return import_model(source, fused=fuse and (device in card_names() or (device != "cpu" and can_fuse())))
