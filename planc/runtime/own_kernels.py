"""What was measured of a step holds for the kernels that it ran by, planc's own and ONNX Runtime's: tables and plans say
which.

The version stands among those of the libraries, in a cost table and in the plans made of it. Times, workspaces and engines
of other kernels are refused, not used.
"""

import warnings
from collections.abc import Mapping

from planc.devices import find_device
from planc.errors import DeviceError, PlancWarning
from planc.importer.import_model import ImportedModel
from planc.runtime.ort.sessions import versions as versions_here

_KEY = "planc_kernels"


def kernel_versions(imported: ImportedModel, device: str) -> dict[str, str]:
    """The version of planc's own kernels that the step uses on a device, for its cost table; empty where it uses none."""
    found = find_device(device)
    version = "" if found is None else found[0].kernel_version(imported)
    return {_KEY: version} if version else {}


def require_kernels(imported: ImportedModel, device: str, versions: Mapping[str, str], what: str) -> None:
    """Raise DeviceError unless `what`, measured with these versions, is of the kernels that the step uses on the device."""
    here, made = kernel_versions(imported, device).get(_KEY), versions.get(_KEY)
    if here is not None and here != made:
        raise DeviceError(
            f"{what} is of another version of planc's own kernels ({made or 'unknown'}, here {here}): install those, "
            "or measure and compile again, with planc profile and planc compile"
        )


def tell_of_other_runtime(made: Mapping[str, str], what: str) -> None:
    """Warn where `what` was measured with another version of ONNX Runtime than is here: it runs all the same."""
    name = "onnxruntime"
    then, here = made.get(name), versions_here()[name]
    if then is not None and then != here:
        text = (
            f"{what} was made for ONNX Runtime {then}, this is {here}: its operators may take other times and other "
            "scratch, and give other bits; measure and compile again, with planc profile and planc compile"
        )
        warnings.warn(text, PlancWarning, stacklevel=4)
