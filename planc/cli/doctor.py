"""`planc doctor`: what is installed and what works here."""

import platform
from importlib.metadata import PackageNotFoundError, version

import onnxruntime as ort

from planc.cli.console import out, print_json
from planc.cli.options import Json
from planc.costs.host import host_info
from planc.schedule.solver import solver_names
from planc.units import format_bytes
from planc.zoo import families

_PACKAGES = ("planc", "onnx", "onnxruntime-gpu", "ortools", "networkx", "omnimalloc", "numba", "torch", "cuda-core")


def doctor(json: Json = False) -> None:
    """Show versions, the device, ONNX Runtime's providers, solvers and networks."""
    host = host_info()
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "device": host.name,
        "threads": host.threads,
        "free_bytes": host.free_bytes,
        "packages": {name: _version(name) for name in _PACKAGES},
        "providers": ort.get_available_providers(),
        "solvers": list(solver_names()),
        "networks": sorted(families()),
    }
    if json:
        print_json(facts)
        return
    out().print(f"device     {host.name}, {host.threads} threads, {format_bytes(host.free_bytes)} free")
    out().print(f"python     {platform.python_version()}")
    for name in _PACKAGES:
        out().print(f"{name:<17}{_version(name) or 'not installed'}")
    out().print(f"providers  {', '.join(ort.get_available_providers())}")
    out().print(f"solvers    {', '.join(solver_names())}")
    out().print(f"networks   {', '.join(sorted(families()))}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
