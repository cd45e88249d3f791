"""Builds the emulated card and its libraries, and loads them in place of CUDA's.

ONNX Runtime's own CUDA provider then runs on host memory. Its kernels do not compute: each hashes what it reads into what
it writes, so that whatever a plan moves, drops and recomputes must come out as the very bytes that the plain graph makes.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from planc.runtime.cuda import cudnn
from planc.runtime.cuda.provider import cuda_session

HERE = Path(__file__).parent
DRIVER = "libcuda.so.1"
SOURCES = {
    DRIVER: ("world.cpp", "driver.cpp", "control.cpp", "patterns.cpp"),
    "libcudart.so.13": ("runtime.cpp", "unsupported.cpp"),
    "libcublasLt.so.13": ("blas.cpp",),
    "libcublas.so.13": ("blas.cpp",),
    "libcudnn.so.9": ("dnn.cpp",),
    "libcurand.so.10": (),
    "libnvrtc.so.13": ("compiler.cpp",),
    "libnccl.so.2": ("nccl.cpp",),
}
"""What the provider loads, and what each is made of; its symbols bear the library's name as their version."""

VIEWS = {"Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"}
"""Operators that may leave their bytes where they are."""

DEVICE_LIMIT = 1 << 30
PINNED_LIMIT = 1 << 30


def why_not() -> str | None:
    """What is missing to build and load the emulator; None when nothing is."""
    if shutil.which("g++") is None:
        return "the CUDA emulator needs g++"
    if headers() is None:
        return "the CUDA emulator needs CUDA's headers (cuda.h); none beside nvcc or in /usr/local/cuda*"
    if not list(Path(ort.__file__).parent.glob("capi/libonnxruntime_providers_cuda.so")):
        return "the CUDA emulator needs ONNX Runtime's CUDA provider (onnxruntime-gpu)"
    try:
        import cuda.bindings  # noqa: F401
    except ImportError:
        return "the CUDA emulator needs the package cuda-bindings"
    return None


def headers() -> Path | None:
    """The folder that holds cuda.h."""
    compiler = shutil.which("nvcc")
    beside = [Path(compiler).resolve().parents[1] / "include"] if compiler else []
    for folder in (*beside, *sorted(Path("/usr/local").glob("cuda*/include"))):
        if (folder / "cuda.h").exists():
            return folder
    return None


def build(folder: Path) -> Path:
    """Compile the emulated libraries into `folder`."""
    _compile(folder, DRIVER)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _compile(folder, name), [name for name in SOURCES if name != DRIVER]))
    return folder


def _compile(folder: Path, name: str) -> None:
    versions = folder / f"{name}.map"
    versions.write_text(f"{name} {{ global: *; }};")
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-x", "c++", f"-I{headers()}", f"-Wl,-soname,{name}"]
    sources = [str(HERE / source) for source in SOURCES[name]] or ["/dev/null"]
    others = [] if name == DRIVER else [f"-Wl,--version-script={versions}", "-x", "none", str(folder / DRIVER)]
    subprocess.run(["g++", *flags, "-o", str(folder / name), *sources, *others, "-ldl"], check=True)


class Emulator:
    """The loaded card. `reset` before each run; what `problems` names is wrong with the run."""

    def __init__(self, folder: Path) -> None:
        libraries = [ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in SOURCES]
        self._library, self._kept = libraries[0], libraries
        size, number, text = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_char_p
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "reset": (None, [number, size, size]),
            "copies": (None, [number, number]),
            "present": (None, [ctypes.c_int]),
            "workspace": (None, [size, ctypes.c_int]),
            "fail": (None, [text, ctypes.c_int]),
            "calls": (ctypes.c_int, [text]),
            "peak": (size, [ctypes.c_int]),
            "live": (size, []),
            "library_live": (size, []),
            "time": (number, []),
            "problems": (text, []),
            "trace": (text, []),
            "bind": (None, [text, text, number, text]),
            "finish": (None, []),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, f"emu_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        self._segments: Iterator[tuple[int, int]] = iter(())

    def reset(self, seed: int = 0, device_limit: int = DEVICE_LIMIT, pinned_limit: int = PINNED_LIMIT) -> None:
        """Forget all that happened, but not what memory holds; `seed` chooses the order in which queued work runs."""
        self._reset(seed, device_limit, pinned_limit)
        cudnn.forget()

    def copies(self, latency_ns: int, bandwidth: int) -> None:
        """Virtual time of a copy: latency plus bytes at `bandwidth` B/s."""
        self._copies(latency_ns, bandwidth)

    def present(self, yes: bool) -> None:
        """Whether the driver finds the card: not outside the tests that want it."""
        self._present(yes)

    def workspace(self, size: int, steps: int = 1) -> None:
        """Until the next reset cuDNN's heuristics, but not its fallback list, put an engine of so much workspace first;
        convolutions in turn have 1 / `steps` of it, 2 / `steps` and so on up to all of it."""
        self._workspace(size, steps)
        cudnn.forget()

    def fail(self, name: str, nth: int) -> None:
        """Make the `nth` call of a class fail: alloc, pinned, stream, event, record, wait, copy, kernel, exchange,
        synchronize, capture, instantiate, launch or context."""
        self._fail(name.encode(), nth)

    def calls(self, name: str) -> int:
        """Calls of a class since the reset."""
        return int(self._calls(name.encode()))

    @property
    def peak_bytes(self) -> int:
        """High-water mark of the device memory that planc allocates."""
        return int(self._peak(0))

    @property
    def library_peak_bytes(self) -> int:
        """High-water mark of the device memory that the provider and its libraries allocate."""
        return int(self._peak(1))

    @property
    def library_live_bytes(self) -> int:
        """Device memory that the provider and its libraries hold."""
        return int(self._library_live())

    @property
    def live(self) -> int:
        """Bytes, streams, events, graphs and contexts that planc has not given back."""
        return int(self._live())

    @property
    def time_ns(self) -> int:
        """The host's virtual clock: it moves when the host waits."""
        return int(self._time())

    @property
    def problems(self) -> list[str]:
        """Races, accesses outside allocations, reads of bytes never written."""
        return self._problems().decode().splitlines()

    def trace(self) -> list[str]:
        """Kernels and copies in the order in which they ran since the last call."""
        return self._trace().decode().splitlines()

    def session(self, *arguments: Any, **options: Any) -> "WatchedSession":
        """A session of the real provider whose kernels are checked against its operators; see `cuda_session`."""
        return WatchedSession(self, onnx.load_model_from_string(arguments[0]), cuda_session(*arguments, **options))

    def bind(self, operators: bytes, ranges: bytes, duration_ns: int, site: str) -> None:
        """What is launched until `finish` belongs to these operators; see control.cpp."""
        self._bind(operators, ranges, duration_ns, site.encode())

    def finish(self) -> None:
        """Report operators of the segment for which nothing was launched."""
        self._finish()

    def expect_segments(self, durations_ns: Iterable[int]) -> None:
        """The next bindings, numbered from 0, last so long on the virtual clock."""
        self._segments = enumerate(durations_ns)

    def next_segment(self) -> tuple[int, int]:
        """Number and duration of the binding being made."""
        return next(self._segments, (-1, 0))


class WatchedSession:
    """The part of onnxruntime.InferenceSession that a device uses, around a real session."""

    def __init__(self, emulator: Emulator, model: onnx.ModelProto, session: ort.InferenceSession) -> None:
        self.emulator, self.nodes, self.session = emulator, list(model.graph.node), session
        self._sess = self

    def io_binding(self) -> "WatchedBinding":
        """A binding that remembers where tensors are."""
        return WatchedBinding(self.session.io_binding(), *self.emulator.next_segment())

    def run_with_iobinding(self, binding: "WatchedBinding", options: ort.RunOptions) -> None:
        """Let the provider queue the segment's kernels."""
        if binding.packed is None:
            binding.packed = self._pack(binding.ranges)
        self.emulator.bind(*binding.packed, binding.duration_ns, f"segment {binding.number}")
        self.session._sess.run_with_iobinding(binding.binding._iobinding, options)
        self.emulator.finish()

    def _pack(self, known: Mapping[str, tuple[int, int]]) -> tuple[bytes, bytes]:
        lines, ranges = [], []
        for node in self.nodes:
            reads = [known[name] for name in node.input if name in known]
            writes = [known[name] for name in node.output if name]
            lines.append(f"{node.op_type} {int(node.op_type in VIEWS)} {len(reads)} {len(writes)}")
            ranges += [*reads, *writes]
        return "\n".join(lines).encode(), np.array(ranges, np.uint64).tobytes()


class WatchedBinding:
    """Addresses of a session's ports, told to the real binding and remembered."""

    def __init__(self, binding: ort.SessionIOBinding, number: int, duration_ns: int) -> None:
        self.binding, self.number, self.duration_ns = binding, number, duration_ns
        self.ranges: dict[str, tuple[int, int]] = {}
        self.packed: tuple[bytes, bytes] | None = None
        self._iobinding = self

    def bind_input(self, name: str, device: str, index: int, kind: int, shape: tuple[int, ...], at: int) -> None:
        """Bind and remember an input."""
        self._remember(name, kind, shape, at)
        self.binding.bind_input(name, device, index, kind, shape, at)

    def bind_output(self, name: str, device: str, index: int, kind: int, shape: tuple[int, ...], at: int) -> None:
        """Bind and remember an output."""
        self._remember(name, kind, shape, at)
        self.binding.bind_output(name, device, index, kind, shape, at)

    def _remember(self, name: str, kind: int, shape: tuple[int, ...], at: int) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(kind).itemsize
        self.ranges[name] = (at, size)
