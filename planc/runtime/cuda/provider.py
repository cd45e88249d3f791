"""ONNX Runtime's CUDA provider: its libraries, its options, and the one scratch arena of the process."""

import ctypes
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import onnxruntime as ort

from planc.errors import DeviceError
from planc.kernels.engines import WORKSPACE_FORMS
from planc.runtime.cuda import handle_sharing as cuda_handles
from planc.runtime.cuda.custom import with_kernels
from planc.runtime.cuda.driver import Context
from planc.runtime.ort.c_api import can_place_scratch
from planc.runtime.ort.sessions import faithful_options
from planc.units import ALIGNMENT, format_bytes

NAME = "CUDAExecutionProvider"

_LIBRARIES = ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9")
"""What onnxruntime-gpu 1.31 needs besides the driver, in loading order."""

_NVIDIA = 0x10DE
"""PCI vendor identity."""

_CUBLAS_WORKSPACE = ":16:8"
"""cuBLAS's workspaces: eight of 16 KiB a handle instead of 32 MiB and more. Each session owns handles: with this one
a session takes 0-30 MiB of device memory instead of 59-94 (H100, ONNX Runtime 1.31.1)."""

_lock = Lock()
_arenas: dict[int, int] = {}
_loaded = False


def load_libraries() -> None:
    """Load the CUDA libraries that the provider needs: those that the process has, else of NVIDIA's Python packages, which
    `planc[cuda]` and PyTorch install, else of the system. So a process has one cuDNN.

    Bounds cuBLAS's workspaces first: it reads the environment when a handle is made. Raises DeviceError naming a
    library that is nowhere.
    """
    global _loaded
    with _lock:
        if _loaded:
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)
        missing = missing_libraries()
        if missing:
            raise DeviceError(
                f"ONNX Runtime's CUDA provider needs {missing[0]}, which is not installed: install CUDA 13 and cuDNN 9,"
                " for example with: pip install 'planc[cuda]'"
            )
        ort.set_default_logger_severity(3)  # it warns for every session that CUDA is no plug-in
        cuda_handles.installed()
        _loaded = True


def usable() -> bool:
    """Whether a card, its driver and ONNX Runtime's provider work."""
    try:
        load_libraries()
        Context().close()
    except DeviceError:
        return False
    return NAME in ort.get_available_providers()


def places_scratch() -> bool:
    """Whether ONNX Runtime takes planc's allocator, so that scratch lies where a plan says: recorded kernels keep the
    addresses that they were given."""
    return can_place_scratch()


def missing_libraries() -> list[str]:
    """Load every library of the provider and name those that cannot be."""
    return [
        name
        for name in _LIBRARIES
        if not _loads(name, os.RTLD_NOLOAD) and not any(_loads(candidate) for candidate in _candidates(name))
    ]


def library_versions() -> dict[str, str]:
    """Versions of cuDNN and cuBLAS, which choose the kernels."""
    functions = {"cudnn": ("libcudnn.so.9", "cudnnGetVersion"), "cublas": ("libcublasLt.so.13", "cublasLtGetVersion")}
    found = {}
    for name, (library, function) in functions.items():
        get = getattr(ctypes.CDLL(library), function)
        get.restype = ctypes.c_size_t
        found[name] = str(get())
    return found


def _candidates(name: str) -> Iterator[str]:
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations or () if found else ():
        yield from (str(path) for path in Path(folder).glob(f"*/lib/{name}"))
    yield name


def _loads(path: str, more: int = 0) -> bool:
    try:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL | more)
    except OSError:
        return False
    return True


def provider_options(index: int, stream: int | None = None) -> dict[str, str]:
    """Provider options: kernels chosen by cuDNN's heuristics, so that every session chooses alike; TF32 on.

    With `stream` (a cudaStream_t) the session queues everything there.
    """
    options = {
        "device_id": str(index),
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "1",
        "do_copy_in_default_stream": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options if stream is None else {**options, "user_compute_stream": str(stream)}


FORMS: Mapping[str, Mapping[str, str]] = {
    "fallback": {"cudnn_conv_algo_search": "DEFAULT"},
    "mode_b": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
}
"""Other settings that a session can be opened with, by the name of the form: where cuDNN looks for convolution kernels.

With cuDNN 9, ONNX Runtime 1.31 asks its heuristics in mode A for HEURISTIC, in mode B, which weighs more, for EXHAUSTIVE,
and for the fallback list for DEFAULT, and takes the first engine that runs. None of them measures, so each chooses alike
in every run. `cudnn_conv_use_max_workspace` is no choice: it is no longer read."""


def form_options(form: str) -> Mapping[str, str]:
    """Provider options of a form; none for the form "". Raises DeviceError for an unknown one."""
    if form and form not in FORMS and form not in WORKSPACE_FORMS:
        known = ", ".join((*FORMS, *WORKSPACE_FORMS))
        raise DeviceError(f"the plan runs layers in the form {form!r}; CUDA sessions have {known}")
    return FORMS.get(form, {})


def cuda_session(
    source: str | bytes,
    index: int,
    stream: int | None = None,
    options: ort.SessionOptions | None = None,
    extra: Mapping[str, str] | None = None,
    form: str = "",
) -> ort.InferenceSession:
    """A session whose operators all run on card `index`; `extra` are more provider options, `form` says
    how much workspace engines may take (`planc.kernels.engines`).

    Raises DeviceError when an operator cannot run there.
    """
    load_libraries()
    chosen = options or faithful_options()
    chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (NAME, {**provider_options(index, stream), **(extra or {})})
    context = Context(index)  # kernels of planc's own are built on the current card, and nobody may have been there yet
    try:
        model = with_kernels(source, chosen, form, index) if isinstance(source, bytes) else source
        return ort.InferenceSession(model, chosen, providers=[provider], enable_fallback=0)
    except DeviceError:
        raise
    except Exception as error:  # ONNX Runtime raises types of its own that share no base
        raise DeviceError(f"ONNX Runtime's CUDA provider refuses the model: {error}") from error
    finally:
        context.close()


def run_options() -> ort.RunOptions:
    """Options of a run that only queues: no synchronisation with the host at its end."""
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def reserve_scratch(size: int, index: int = 0) -> None:
    """Bound the scratch of all planned sessions of this process on card `index` to `size` bytes, held in one arena.

    ONNX Runtime registers an arena once a process: the first call decides, a later one asks whether its plan fits.
    Raises DeviceError when the arena is smaller than `size`.
    """
    load_libraries()
    with _lock:
        if index not in _arenas:
            _arenas[index] = size
            ort.create_and_register_allocator_v2(NAME, _memory_info(index), {"device_id": str(index)}, _arena(size))
        if size > _arenas[index]:
            raise DeviceError(
                f"this process's scratch arena on the card is fixed at {format_bytes(_arenas[index])} by the first "
                f"plan it loaded, but {format_bytes(size)} are needed: call "
                f"planc.runtime.cuda.provider.reserve_scratch({size}) before the first planc.load, or use a new process"
            )


def _memory_info(index: int) -> Any:
    return ort.OrtMemoryInfo.create_v2(
        "Cuda",
        ort.OrtMemoryInfoDeviceType.GPU,
        _NVIDIA,
        index,
        ort.OrtDeviceMemoryType.DEFAULT,
        ALIGNMENT,
        ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
    )


def _arena(size: int) -> ort.OrtArenaCfg:
    size = max(size, ALIGNMENT)  # ONNX Runtime doubles an arena of nothing for ever
    return ort.OrtArenaCfg({"arena_extend_strategy": 0, "max_mem": size, "initial_chunk_size_bytes": size})
