"""Bytes and nanoseconds: the only two units of problems and plans, and how people write and read them."""

import re

from planc.errors import UsageError

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_FACTORS = {
    "": 1, "B": 1,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
"""`8G` is read as the smaller of what it may mean, so that it always fits."""

_SIZE = re.compile(r"\s*((?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]\+?[0-9]{1,2})?)\s*([A-Za-z]*|%)\s*")

LONGEST_TIME_LIMIT = 1e8
"""Seconds, three years: an infinite limit is no number of milliseconds for the libraries that keep it."""

ALIGNMENT = 256
"""Every storage starts at a multiple of this many bytes, as with `cudaMalloc` and ONNX Runtime's arena. Where tensors start
within a memory line of 128 bytes, element-wise kernels take 1.4 times as long on an H100 (docs/gpu.md)."""

HOST_ALIGNMENT = 4096
"""Slots of the host tier start at multiples of this: the block size that direct file access wants."""


LARGEST_SIZE = 2**62
"""Bytes below which sizes stay, so that a few of them can be added in 64 bits."""


def parse_size(text: str, reference: int) -> int:
    """Bytes meant by `text`: `8GiB`, `8 GB`, `8G`, `.5GiB`, `1048576`, `1e9`, or `60%` of `reference` bytes.

    Raises UsageError when the text is none of these or is not positive.
    """
    match = _SIZE.fullmatch(text)
    unit = match.group(2).upper() if match else ""
    if match is None or (unit != "%" and unit not in _FACTORS):
        raise UsageError(
            f"size {text!r}: expected a number with B, KB, MB, GB, KiB, MiB, GiB or %, for example 8GiB or 60%"
        )
    number = float(match.group(1))
    exact = number * reference / 100 if unit == "%" else number * _FACTORS[unit]
    if exact >= LARGEST_SIZE:
        raise UsageError(f"size {text[:40]!r}: expected less than {LARGEST_SIZE} bytes")
    size = int(exact)
    if size <= 0:
        raise UsageError(f"size {text!r}: expected more than zero bytes")
    return size


def format_bytes(size: int) -> str:
    """`1536` → `1.5 KiB`; binary units, at most one decimal."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_ns(duration: int) -> str:
    """`1500000` → `1.50 ms`."""
    for limit, factor, unit in ((10**3, 1, "ns"), (10**6, 10**3, "µs"), (10**9, 10**6, "ms")):
        if abs(duration) < limit:
            return f"{duration} ns" if factor == 1 else f"{duration / factor:.2f} {unit}"
    return f"{duration / 10**9:.2f} s"


def align_up(size: int, alignment: int) -> int:
    """Smallest multiple of `alignment` (bytes) that holds `size`."""
    return -(-size // alignment) * alignment
