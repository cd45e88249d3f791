"""Exchanges between cards: their time by size, and what exchanges, copies and compute cost each other."""

from onnx import TensorProto

from planc.enums import ExchangeKind
from planc.profiling.cuda_link import LinkMeter, slowdown_ppm
from planc.runtime.cuda.driver import Context
from planc.runtime.cuda.graph import Replay
from planc.runtime.cuda.nccl import NcclSums
from planc.runtime.cuda.provider import load_libraries
from planc.runtime.device import Engine, TensorAddress
from planc.runtime.ranks.group import RankGroup

_REGION = 64 << 20
_FIRST = (4 << 10, 1 << 20, _REGION)
_SUMS = 8
_BESIDE_BYTES = 16 << 20


class CudaExchangeMeter:
    """Sums memory of the card with the other ranks, which measure at the same time. `device_bytes` is what NCCL then holds
    of the card: buffers for each of its channels, and its kernels."""

    def __init__(self, group: RankGroup) -> None:
        load_libraries()
        self._context = Context(group.local)
        self._link = LinkMeter(group.local)
        free = self._context.info().free_bytes
        self._sums = NcclSums(group, self._context, self._link.streams[Engine.EXCHANGE])
        for size in _FIRST:  # connections, of another kind for small sums, are made by the first, which is not recorded
            self._queue(size, 1)
        self._link.settle()
        self.device_bytes = max(0, free - self._context.info().free_bytes)

    def exchange_ns(self, size: int) -> int:
        """Median time of a sum of `size` bytes, alone, in a recorded row of them."""
        return round(self._link.median(self._recorded(size, _SUMS), {}, Engine.EXCHANGE) / _SUMS)

    def _queue(self, size: int, count: int) -> None:
        for _ in range(count):
            tensor = TensorAddress(0, TensorProto.FLOAT, (size // 4,))
            self._sums.queue(self._link.device, ExchangeKind.ALL_REDUCE, [tensor])

    def _recorded(self, size: int, count: int) -> Replay:
        return self._link.recorded(Engine.EXCHANGE, lambda: self._queue(size, count))

    def contention(self) -> dict[str, int]:
        """Slow-downs in ppm: medians of whole replays, each while longer work keeps the other engine busy."""
        link, short, long = self._link, self._recorded(_BESIDE_BYTES, _SUMS), self._recorded(_BESIDE_BYTES, 8 * _SUMS)
        span = link.median(short, {}, Engine.EXCHANGE)
        once = link.compute.once_ns(link)
        few = link.recorded(Engine.COMPUTE, lambda: link.compute.queue(max(1, round(2 * span / once))))
        many = link.recorded(Engine.COMPUTE, lambda: link.compute.queue(max(4, round(4 * span / once))))
        copies, more = (link.copies(Engine.OUT, _BESIDE_BYTES, count) for count in (4, 16))
        alone, copied = link.median(few, {}, Engine.COMPUTE), link.median(copies, {}, Engine.OUT)
        return {
            "compute_exchange_ppm": slowdown_ppm(link.median(few, {Engine.EXCHANGE: long}, Engine.COMPUTE) / alone),
            "copy_exchange_ppm": slowdown_ppm(link.median(copies, {Engine.EXCHANGE: long}, Engine.OUT) / copied),
            "exchange_compute_ppm": slowdown_ppm(link.median(short, {Engine.COMPUTE: many}, Engine.EXCHANGE) / span),
            "exchange_copy_ppm": slowdown_ppm(link.median(short, {Engine.OUT: more}, Engine.EXCHANGE) / span),
        }


def open_meter(group: RankGroup) -> CudaExchangeMeter:
    """The meter of this rank, on its card."""
    return CudaExchangeMeter(group)
