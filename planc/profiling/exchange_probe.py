"""`python -m planc.profiling.exchange_probe KIND`: one of the processes that measure the way between ranks.

The first of them prints the points of the link, its contention and the bytes that it holds as JSON.
"""

import sys

import msgspec

from planc.costs.table import CopyPoint, monotone
from planc.devices import find_device
from planc.errors import PlancError
from planc.runtime.ranks.group import current_group

_SIZES = tuple(4096 * 4**step for step in range(8))
"""4 KiB … 64 MiB."""


def main(kind: str) -> None:
    """Measure with the other processes. Raises PlancError."""
    group = current_group()
    found = find_device(kind)
    meter = None if found is None else found[0].exchange_meter(group)
    if meter is None:
        return
    times = [meter.exchange_ns(size) for size in _SIZES]
    lifted = monotone(tuple(CopyPoint(size=s, out_ns=t, in_ns=t) for s, t in zip(_SIZES, times, strict=True)))
    facts = {**meter.contention(), "device_bytes": meter.device_bytes}
    group.meet("measured", "")
    if group.rank == 0:
        points = [{"size": point.size, "ns": point.out_ns} for point in lifted]
        sys.stdout.write(msgspec.json.encode([points, facts]).decode())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except PlancError as error:
        sys.exit(str(error))
