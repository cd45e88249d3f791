"""A queue of device work recorded once as a CUDA graph and replayed, so that launching costs the host nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from planc.runtime.cuda.driver import CudaError, call, driver, new_event


class Replay:
    """An instantiated graph; calling it queues all its work on the stream it was recorded from."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._stream = stream
        self.nodes: int = call("cuGraphGetNodes", graph, 0)[1]
        self._exec = call("cuGraphInstantiate", graph, 0)
        call("cuGraphUpload", self._exec, stream)

    def __call__(self) -> None:
        call("cuGraphLaunch", self._exec, self._stream)

    def close(self) -> None:
        """Free the graph; nothing of it may be under way."""
        if self._exec is not None:
            call("cuGraphExecDestroy", self._exec)
            self._exec = None


def record(queue: Callable[[], None], stream: Any, others: Sequence[Any]) -> Replay:
    """Record what `queue` puts on `stream`, and on `others` as far as they are made to wait for `stream`.

    Raises CudaError when something in it cannot be recorded; nothing was executed then, and the streams are usable.
    """
    call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
    events = []
    try:
        queue()
        for other in filter(_recording, others):
            events.append(new_event())
            call("cuEventRecord", events[-1], other)
            call("cuStreamWaitEvent", stream, events[-1], 0)
    except BaseException:
        _abandon(stream)
        raise
    finally:
        for event in events:
            call("cuEventDestroy", event)
    graph = call("cuStreamEndCapture", stream)
    try:
        _bridge_host_nodes(graph)
        return Replay(graph, stream)
    finally:
        call("cuGraphDestroy", graph)


def _recording(stream: Any) -> bool:
    return bool(call("cuStreamIsCapturing", stream) == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE)


def _abandon(stream: Any) -> None:
    try:
        graph = call("cuStreamEndCapture", stream)
    except CudaError:  # the capture was invalidated: there is no graph
        return
    if graph:
        call("cuGraphDestroy", graph)


def _bridge_host_nodes(graph: Any) -> None:
    """Take host callbacks out of a graph, joining what was before each with what was after it.

    ONNX Runtime queues one to free pinned metadata that kernels read (Split, Concat): replayed, it would free twice,
    and the second replay would read freed memory. Without it the metadata lives as long as the process.
    """
    host = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_HOST
    nodes = call("cuGraphGetNodes", graph, call("cuGraphGetNodes", graph, 0)[1])[0]
    for node in nodes:
        if call("cuGraphNodeGetType", node) != host:
            continue
        before = _neighbours("cuGraphNodeGetDependencies", node)
        after = _neighbours("cuGraphNodeGetDependentNodes", node)
        call("cuGraphDestroyNode", node)
        for source in before:
            known = {int(target) for target in _neighbours("cuGraphNodeGetDependentNodes", source)}
            for target in after:
                if int(target) not in known:
                    call("cuGraphAddDependencies", graph, [source], [target], None, 1)


def _neighbours(function: str, node: Any) -> list[Any]:
    *_, count = call(function, node, 0)
    return list(call(function, node, count)[0]) if count else []
