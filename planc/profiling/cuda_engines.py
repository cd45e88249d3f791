"""Measures the engines of libraries for a step's calls of planc's own operators: time, workspace, repeatability.

A call's engines are tried as cuDNN's heuristics rank them. Kept are, from the fastest on, those with less workspace than
every faster one, and of these only what makes the same bits again, twice on each of two sets of numbers: that an engine
claims to repeat is no proof (pytorch#188288).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from planc.costs.table import EngineCost
from planc.errors import DeviceError
from planc.importer.import_model import ImportedModel
from planc.kernels import Call
from planc.kernels.device import CudnnKernel, Variants
from planc.runtime.cuda import cudnn
from planc.runtime.cuda.cudnn import BuiltGraph
from planc.runtime.cuda.driver import CudaError
from planc.runtime.cuda.driver import call as driver_call
from planc.runtime.cuda.kernels import BuiltVariant, built_variants
from planc.runtime.cuda.provider import library_versions
from planc.units import ALIGNMENT, align_up

_Engine = BuiltGraph | BuiltVariant

_TRIED = 5
"""Engines of a call that are timed: further ones were never among the fastest (H100, cuDNN 9.19, 54 convolutions)."""

_SAME_PERCENT = 2
"""An engine that is this much slower but takes less workspace is as good as a faster one."""

_SCRIBBLE = 0xA5
"""What workspaces hold before a run: no engine may depend on it."""


def library_calls(imported: ImportedModel) -> Iterator[tuple[str, Call, CudnnKernel | Variants]]:
    """The distinct calls of a step that have a choice, by the name of their function: of a library's engines, or of
    planc's own kernels that take different workspaces."""
    for name, call in imported.calls.items():
        kernel = call.operator.cuda(call) if call.operator.cuda else None
        if isinstance(kernel, (CudnnKernel, Variants)):
            yield name, call, kernel


@dataclass(frozen=True)
class EngineMeter:
    """Measures on the current card. `reserve` gives the address of so many bytes, `fill` puts random numbers there
    (address, size, ONNX element type), `elapsed` runs and times what it is given, in ns."""

    stream: int
    reserve: Callable[[int], int]
    fill: Callable[[int, int, int], None]
    elapsed: Callable[[Callable[[], None]], float]

    def measure(self, imported: ImportedModel) -> dict[str, tuple[EngineCost, ...]]:
        """The engines worth having of every call. Raises DeviceError where a call has none that repeats."""
        return {name: self._worth_having(name, call, kernel) for name, call, kernel in library_calls(imported)}

    def _worth_having(self, name: str, call: Call, kernel: CudnnKernel | Variants) -> tuple[EngineCost, ...]:
        graphs: list[_Engine] = (
            list(built_variants(name, kernel))
            if isinstance(kernel, Variants)
            else list(islice(cudnn.candidates(name, kernel), _TRIED))
        )
        operands = self._placed(call, max((g.workspace for g in graphs), default=0))
        timed = sorted((self._timed(g, call, operands) for g in graphs), key=lambda e: e.compute_ns)
        kept = tuple(e for e in frontier(timed) if self._repeats(_named(graphs, e), call, operands))
        if not kept:
            raise DeviceError(f"{call.where}: none of its engines repeats its bits on this card")
        return kept

    def _placed(self, call: Call, workspace: int) -> list[int]:
        """Addresses of inputs, outputs and workspace, side by side."""
        sizes = [align_up(t.nbytes, ALIGNMENT) for t in (*call.inputs, *call.outputs)]
        at = self.reserve(sum(sizes) + workspace)
        return [at + sum(sizes[:k]) for k in range(len(sizes) + 1)]

    def _timed(self, graph: _Engine, call: Call, operands: Sequence[int]) -> EngineCost:
        """What it costs. Raises DeviceError where it breaks the card's context: cuDNN 9.14's gradient of attention with
        197 tokens reads what is not there, 9.19's does not."""
        try:
            elapsed = self.elapsed(lambda: graph.run(operands, self.stream))
        except CudaError as error:
            raise DeviceError(
                f"{call.where}: engine {graph.engine} of cuDNN {library_versions()['cudnn']} breaks off ({error}): try "
                "another version, for example with: pip install --upgrade nvidia-cudnn-cu13"
            ) from error
        return EngineCost(engine=graph.engine, workspace_bytes=graph.workspace, compute_ns=max(1, round(elapsed)))

    def _repeats(self, graph: _Engine, call: Call, operands: Sequence[int]) -> bool:
        for _ in range(2):
            for type_, at in zip(call.inputs, operands, strict=False):
                self.fill(at, type_.nbytes, type_.dtype)
            first, second = (self._outputs(graph, call, operands) for _ in range(2))
            if any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
                return False
        return True

    def _outputs(self, graph: _Engine, call: Call, operands: Sequence[int]) -> list[Any]:
        """The bytes that a run writes."""
        if graph.workspace:
            driver_call("cuMemsetD8Async", operands[-1], _SCRIBBLE, graph.workspace, self.stream)
        graph.run(operands, self.stream)
        found = []
        for type_, at in zip(call.outputs, operands[len(call.inputs) :], strict=False):
            found.append(np.empty(type_.nbytes, np.uint8))
            driver_call("cuMemcpyDtoHAsync", found[-1].ctypes.data, at, type_.nbytes, self.stream)
        driver_call("cuStreamSynchronize", self.stream)
        return found


def _named(graphs: Sequence[_Engine], cost: EngineCost) -> _Engine:
    return next(graph for graph in graphs if graph.engine == cost.engine)


def frontier(timed: Sequence[EngineCost]) -> list[EngineCost]:
    """Of engines from the fastest on those with less workspace than every faster one, as long as it is much less time."""
    kept: list[EngineCost] = []
    for engine in timed:
        if kept and engine.workspace_bytes >= kept[-1].workspace_bytes:
            continue
        if kept and engine.compute_ns * 100 <= kept[-1].compute_ns * (100 + _SAME_PERCENT):
            kept.pop()
        kept.append(engine)
    return kept
