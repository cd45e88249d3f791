"""`planc doctor`: what is installed and what works here."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from planc.cli.console import out, print_json
from planc.cli.options import Json
from planc.units import format_bytes

if TYPE_CHECKING:
    from planc.runtime.cuda.report import CudaReport

_PACKAGES = (
    "planc", "onnx", "onnxruntime-gpu", "ortools", "networkx", "omnimalloc", "numba", "torch", "cuda-bindings"
)  # fmt: skip


def _packages() -> list[str]:
    """What is told of; the ONNX Runtime that is there, for cards or not."""
    plain = _version("onnxruntime-gpu") is None and _version("onnxruntime") is not None
    return ["onnxruntime" if plain and name == "onnxruntime-gpu" else name for name in _PACKAGES]


def doctor(json: Json = False) -> None:
    """Show versions, devices, ONNX Runtime's providers and which really load, solvers and networks."""
    import msgspec
    import onnxruntime as ort

    from planc.costs.catalogue import card_names
    from planc.profiling.host import host_info
    from planc.runtime.cuda.report import examine
    from planc.schedule.solver import solver_names
    from planc.zoo import families

    host, cuda = host_info(), examine()
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "device": host.name,
        "threads": host.threads,
        "free_bytes": host.free_bytes,
        "packages": {name: _version(name) for name in _packages()},
        "providers": ort.get_available_providers(),
        "cuda": msgspec.to_builtins(cuda),
        "catalogue": list(card_names()),
        "solvers": list(solver_names()),
        "networks": sorted(families()),
    }
    if json:
        print_json(facts)
        return
    out().print(f"device     {host.name}, {host.threads} threads, {format_bytes(host.free_bytes)} free")
    out().print(f"python     {platform.python_version()}")
    for name in _packages():
        out().print(f"{name:<17}{_version(name) or 'not installed'}")
    out().print(f"providers  {', '.join(ort.get_available_providers())}")
    _print_cuda(cuda)
    out().print(f"solvers    {', '.join(solver_names())}")
    out().print(f"networks   {', '.join(sorted(families()))}")


def _print_cuda(cuda: "CudaReport") -> None:
    lacks = f": {cuda.lacks} is missing" if cuda.lacks else ""
    out().print(f"cuda       {'usable' if cuda.usable else f'not usable{lacks}'}", soft_wrap=True)
    if cuda.remedy:
        out().print(f"  to do    {cuda.remedy}", soft_wrap=True)
    if cuda.card:
        free, total = format_bytes(cuda.free_bytes), format_bytes(cuda.memory_bytes)
        out().print(f"  card     {cuda.card}, {free} of {total} free, driver for CUDA {cuda.driver}")
        out().print(f"  copies   {cuda.out_rate / 1e9:.1f} GB/s out, {cuda.in_rate / 1e9:.1f} GB/s in, page-locked")
        fusing = "element-wise operators are fused" if cuda.fuses else "no: pip install 'planc[cuda]' for NVRTC"
        out().print(f"  fusing   {fusing}", markup=False)
    for name, text in cuda.libraries.items():
        out().print(f"  {name:<9}{text}")
    out().print(f"  pinning  {cuda.pinned}")
    for text in cuda.advice:
        out().print(f"  to do    {text}", markup=False)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
