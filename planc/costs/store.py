"""Reading and writing cost tables. What is read is checked: its numbers must be able to be costs at all."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from planc.costs.table import FORMAT, CostTable, ExchangeLink
from planc.errors import DeviceError
from planc.file_kinds import not_the
from planc.files import UNREADABLE, read_json, write_output

_LARGEST = 1 << 53
"""Bytes and nanoseconds up to here (104 days) can be added up in 64 bits, and are exact in a double."""

_LARGEST_PPM = 100_000_000
"""A hundred times as slow."""


def write_costs(table: CostTable | ExchangeLink, path: Path) -> None:
    """Write the table, or a link between ranks, as JSON, whole or not at all. Raises OutputError."""
    write_output(path, msgspec.json.format(msgspec.json.encode(table), indent=1), "cost table")


def read_costs(path: Path) -> CostTable:
    """Read a table. Raises DeviceError naming the file when it is missing, truncated, of another format or impossible."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(read_json(path), type=dict[str, Any])
        if "model_hash" not in raw:
            raise DeviceError(f"{not_the('cost table', path, 'no costs')}; make a table with `planc profile`")
        if raw.get("format") != FORMAT:
            raise DeviceError(
                f"{path}: cost table format {raw.get('format')!r}, this planc reads {FORMAT}: profile again"
            )
        table = msgspec.convert(raw, CostTable)
    except FileNotFoundError as error:
        raise DeviceError(f"{path}: no such cost table; make one with `planc profile`") from error
    except UNREADABLE as error:
        raise DeviceError(f"{not_the('cost table', path, error)}; make a table with `planc profile`") from error
    for text in _implausible(table):
        raise DeviceError(f"{path}: not a cost table: {text}; make one with `planc profile`")
    return table


def read_exchange(path: Path) -> ExchangeLink:
    """Read a link between ranks. Raises DeviceError naming the file when it is missing, damaged or impossible."""
    try:
        link = msgspec.json.decode(read_json(path), type=ExchangeLink)
    except (FileNotFoundError, *UNREADABLE) as error:
        raise DeviceError(f"{path}: not a readable link between ranks ({error})") from error
    for text in _implausible_exchange(link):
        raise DeviceError(f"{path}: not a link between ranks: {text}")
    return link


def _implausible_exchange(link: ExchangeLink) -> Iterator[str]:
    if not link.points or any(a.size >= b.size for a, b in pairwise(link.points)):
        yield "the exchanges are none, or do not ascend by size"
    for point in link.points:
        yield from _out_of_range("an exchange", (point.size, point.ns), _LARGEST)
    ppm = (link.compute_exchange_ppm, link.copy_exchange_ppm, link.exchange_compute_ppm, link.exchange_copy_ppm)
    yield from _out_of_range("contention with exchanges", ppm, _LARGEST_PPM)
    yield from _out_of_range("what exchanges hold", (link.device_bytes,), _LARGEST)


def _implausible(table: CostTable) -> Iterator[str]:
    """What in `table` is no cost: indices of layers that it does not have, negative or endless times, no link."""
    for index, unique in enumerate(table.layers):
        if unique not in range(len(table.unique)):
            yield f"layer {index} has the costs of entry {unique} of {len(table.unique)}"
    for index, layer in enumerate(table.unique):
        numbers = (layer.compute_ns, layer.scratch_bytes, layer.spread_ns, layer.constant_bytes)
        yield from _out_of_range(f"entry {index}", numbers, _LARGEST)
    yield from _out_of_range("the device", (table.device.memory_bytes, table.boundary_ns), _LARGEST)
    if not table.link.points:
        yield "the link has no measured copy"
    for point in table.link.points:
        yield from _out_of_range("a copy", (point.size, point.out_ns, point.in_ns), _LARGEST)
    if any(a.size >= b.size for a, b in pairwise(table.link.points)):
        yield "the copies of the link do not ascend by size"
    slow = table.link.contention
    ppm = (slow.compute_one_copy_ppm, slow.compute_two_copies_ppm, slow.copy_duplex_ppm, slow.copy_compute_ppm)
    yield from _out_of_range("contention", ppm, _LARGEST_PPM)
    if table.exchange is not None:
        yield from _implausible_exchange(table.exchange)


def _out_of_range(what: str, numbers: tuple[int, ...], largest: int) -> Iterator[str]:
    for number in numbers:
        if not 0 <= number <= largest:
            yield f"{what} costs {number}, expected 0 to {largest}"
