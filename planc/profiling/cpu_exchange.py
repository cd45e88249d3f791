"""Exchanges through host memory: their time by size, and what they and compute cost each other on this machine."""

import statistics
import threading
import time
from collections.abc import Callable

import numpy as np

from planc.profiling.cpu_link import reference_compute
from planc.runtime.ranks.gloo import GlooSums
from planc.runtime.ranks.group import RankGroup

_BESIDE_BYTES = 4 << 20
"""Of the exchanges that compute is measured beside."""

_TIMES, _BESIDE = 5, 40
_PPM = 1_000_000


class CpuExchangeMeter:
    """Sums arrays with the other ranks, which measure at the same time."""

    device_bytes = 0

    def __init__(self, group: RankGroup) -> None:
        self._sums = GlooSums(group, "meter")

    def exchange_ns(self, size: int) -> int:
        """Median time of a sum of `size` bytes, alone."""
        return int(statistics.median(self._times(size, _TIMES)))

    def _times(self, size: int, count: int) -> list[int]:
        array = np.zeros(size // 4, np.float32)
        self._sums.sum([array])
        return [_timed(lambda: self._sums.sum([array])) for _ in range(count)]

    def contention(self) -> dict[str, int]:
        """Slow-downs in ppm. Copies share the memory's bandwidth with exchanges as compute does."""
        compute = reference_compute()
        compute()
        alone = statistics.median([_timed(compute) for _ in range(_TIMES)])
        quiet = statistics.median(self._times(_BESIDE_BYTES, _TIMES))
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(self._times(_BESIDE_BYTES, _BESIDE)))
        thread.start()
        beside = [_timed(compute)]
        while thread.is_alive():
            beside.append(_timed(compute))
        thread.join()
        slower, longer = _ppm(statistics.median(beside) / alone), _ppm(statistics.median(found) / quiet)
        return {
            "compute_exchange_ppm": slower,
            "copy_exchange_ppm": slower,
            "exchange_compute_ppm": longer,
            "exchange_copy_ppm": longer,
        }


def open_meter(group: RankGroup) -> CpuExchangeMeter:
    """The meter of this rank."""
    return CpuExchangeMeter(group)


def _timed(act: Callable[[], None]) -> int:
    start = time.perf_counter_ns()
    act()
    return time.perf_counter_ns() - start


def _ppm(ratio: float) -> int:
    return max(0, round((ratio - 1) * _PPM))
