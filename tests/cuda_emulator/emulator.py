"""Builds the emulated card, loads it in place of the driver, and stands in for ONNX Runtime's sessions on it.

A session here queues one kernel for each segment. The kernel hashes what every operator reads into what it writes, so
that whatever a plan moves, drops and recomputes must come out as the very bytes that the plain graph makes.
"""

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
SOURCES = ("world.cpp", "driver.cpp", "control.cpp")
VIEWS = {"Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze"}
DEVICE_LIMIT = 1 << 30
PINNED_LIMIT = 1 << 30


def why_not() -> str | None:
    """What is missing to build and load the emulator; None when nothing is."""
    if shutil.which("g++") is None:
        return "the CUDA emulator needs g++"
    if headers() is None:
        return "the CUDA emulator needs CUDA's headers (cuda.h); none beside nvcc or in /usr/local/cuda*"
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
    """Compile the emulator into `folder`."""
    library = folder / "libcuda.so.1"
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1"]
    sources = [str(HERE / source) for source in SOURCES]
    subprocess.run(["g++", *flags, f"-I{headers()}", "-o", str(library), *sources, "-ldl"], check=True)
    return library


class Emulator:
    """The loaded card. `reset` before each run; what `problems` names is wrong with the run."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        size, number, text = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_char_p
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "reset": (None, [number, size, size]),
            "copies": (None, [number, number]),
            "fail": (None, [text, ctypes.c_int]),
            "calls": (ctypes.c_int, [text]),
            "peak": (size, []),
            "live": (size, []),
            "time": (number, []),
            "problems": (text, []),
            "trace": (text, []),
            "compute": (None, [text, size, text, size]),
            "kernel": (ctypes.c_int, [ctypes.c_void_p, text, size, text, size, number, text]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, f"emu_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        self.durations: Iterator[int] = iter(())

    def reset(self, seed: int = 0, device_limit: int = DEVICE_LIMIT, pinned_limit: int = PINNED_LIMIT) -> None:
        """Forget all that happened; `seed` chooses the order in which queued work runs."""
        self._reset(seed, device_limit, pinned_limit)

    def copies(self, latency_ns: int, bandwidth: int) -> None:
        """Virtual time of a copy: latency plus bytes at `bandwidth` B/s."""
        self._copies(latency_ns, bandwidth)

    def fail(self, name: str, nth: int) -> None:
        """Make the `nth` call of a class fail: alloc, pinned, stream, event, record, wait, copy, kernel, synchronize,
        capture, instantiate, launch or context."""
        self._fail(name.encode(), nth)

    def calls(self, name: str) -> int:
        """Calls of a class since the reset."""
        return int(self._calls(name.encode()))

    @property
    def peak_bytes(self) -> int:
        """High-water mark of device memory."""
        return int(self._peak())

    @property
    def live(self) -> int:
        """Bytes, streams, events, graphs and contexts not given back."""
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

    def kernel(self, stream: int, operators: bytes, ranges: bytes, duration_ns: int, site: str) -> None:
        """Queue a segment; `operators` and `ranges` are packed as control.cpp declares them."""
        count, total = len(operators) // 16, len(ranges) // 16
        status = self._kernel(stream, operators, count, ranges, total, duration_ns, site.encode())
        if status:
            raise RuntimeError(f"CUDA failure {status}: emulated")

    def compute(self, operators: bytes, ranges: bytes) -> None:
        """Run a segment's operators at once, on any memory of the process."""
        self._compute(operators, len(operators) // 16, ranges, len(ranges) // 16)

    def session(
        self, source: bytes, _index: int, stream: int | None = None, *_: object, **__: object
    ) -> "EmulatedSession":
        """Stands in for `cuda_session`."""
        return EmulatedSession(self, onnx.load_model_from_string(source), stream or 0)


class EmulatedSession:
    """The part of onnxruntime.InferenceSession that a device uses."""

    def __init__(self, emulator: Emulator, model: onnx.ModelProto, stream: int) -> None:
        self.emulator, self.stream = emulator, stream
        self.constants = {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
        self.nodes = list(model.graph.node)
        self._sess = self

    def io_binding(self) -> "EmulatedBinding":
        """A binding that takes the next of the emulator's durations."""
        return EmulatedBinding(next(self.emulator.durations, 0))

    def run_with_iobinding(self, binding: "EmulatedBinding", _options: object = None) -> None:
        """Queue the segment."""
        if binding.packed is None:
            binding.packed = self._pack(binding)
        self.emulator.kernel(self.stream, *binding.packed, binding.duration_ns, f"segment at {binding.first}")

    def _pack(self, binding: "EmulatedBinding") -> tuple[bytes, bytes]:
        operators, ranges = [], []
        for node in self.nodes:
            reads = [binding.ranges[name] for name in node.input if name in binding.ranges]
            writes = [binding.ranges[name] for name in node.output if name]
            view = node.op_type in VIEWS and reads[0][0] == writes[0][0]
            operators.append((0 if view else self._identity(node), len(reads) | len(writes) << 32))
            ranges += [*reads, *writes]
        return np.array(operators, np.uint64).tobytes(), np.array(ranges, np.uint64).tobytes()

    def _identity(self, node: onnx.NodeProto) -> int:
        parts = [node.op_type.encode(), *(a.SerializeToString() for a in node.attribute)]
        parts += [self.constants.get(name, b"-") for name in node.input]
        return int.from_bytes(hashlib.sha256(b"|".join(parts)).digest()[:7], "little") + 1


class EmulatedBinding:
    """Addresses of a session's ports."""

    def __init__(self, duration_ns: int) -> None:
        self.ranges: dict[str, tuple[int, int]] = {}
        self.packed: tuple[bytes, bytes] | None = None
        self.duration_ns, self._iobinding, self.first = duration_ns, self, 0

    def bind_input(self, name: str, _device: str, _index: int, kind: int, shape: tuple[int, ...], at: int) -> None:
        """Remember where the tensor is."""
        size = int(np.prod(shape, dtype=np.int64)) * helper.tensor_dtype_to_np_dtype(kind).itemsize
        self.ranges[name] = (at, size)
        self.first = self.first or at

    bind_output = bind_input


def stand_in(emulator: Emulator, patch: Callable[[str, object], None]) -> None:
    """Make `planc.runtime.cuda` use the emulator; `patch(dotted name, value)` sets an attribute for the test."""

    def nothing(*_: object) -> None:
        return

    replaced: Mapping[str, object] = {
        "cuda_session": emulator.session,
        "load_libraries": nothing,
        "reserve_scratch": nothing,
        "run_options": nothing,
    }
    for name, value in replaced.items():
        patch(f"planc.runtime.cuda.{name}", value)
