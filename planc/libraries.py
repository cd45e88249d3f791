"""Which libraries of kernels are installed; none is loaded here."""

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ONEDNN = "onednn-cpu-gomp"
"""The package of oneDNN for x86-64 Linux (oneDNN 3, GNU OpenMP, Apache 2.0)."""


@cache
def onednn_path() -> Path | None:
    """The file of oneDNN, None where it is not installed."""
    try:
        files = distribution(ONEDNN).files or ()
    except PackageNotFoundError:
        return None
    found = [Path(str(f.locate())).resolve() for f in files if f.name == "libdnnl.so.3"]
    return found[0] if found and found[0].exists() else None


def onednn_version() -> str:
    """The installed oneDNN in words: `oneDNN 2023.2.0`, or `no oneDNN`."""
    return "no oneDNN" if onednn_path() is None else f"oneDNN {distribution(ONEDNN).version}"
