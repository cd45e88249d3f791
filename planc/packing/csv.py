"""MiniMalloc's CSV of buffers: `id,lower,upper,size`, here also with `alignment` and several rows per id.

A row says that the buffer `id` needs `size` bytes at the times [lower, upper); several rows with the same id are one
buffer whose lifetime has gaps. Further columns are kept as they are.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from planc.errors import UsageError
from planc.files import read_file, write_output
from planc.packing.buffers import Buffer, PackingError

REQUIRED = ("id", "lower", "upper", "size")
LARGEST = 2**60


@dataclass(frozen=True)
class BufferTable:
    """The rows of the file, and the buffers they describe; `owner[r]` is the position of row r's buffer."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    buffers: tuple[Buffer, ...]
    owner: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    line: int
    id: str
    lifetime: tuple[int, int]
    size: int
    alignment: int


def read_buffers(path: Path) -> BufferTable:
    """Read a file of buffers. Raises PackingError naming the line and column, UsageError when it cannot be opened."""
    columns, numbered = _read_table(path)
    rows = [_parse(path, line, dict(zip(columns, cells, strict=True))) for line, cells in numbered]
    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row.id, []).append(row)
    buffers = tuple(_buffer(path, group) for group in grouped.values())
    position = {identifier: i for i, identifier in enumerate(grouped)}
    return BufferTable(columns, tuple(c for _, c in numbered), buffers, tuple(position[row.id] for row in rows))


def write_offsets(path: Path, table: BufferTable, offsets: Sequence[int]) -> None:
    """Write the table's rows with the column `offset` (bytes), which replaces one of that name."""
    kept = [i for i, column in enumerate(table.columns) if column != "offset"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(table.columns[i] for i in kept), "offset"])
    for cells, owner in zip(table.rows, table.owner, strict=True):
        writer.writerow([*(cells[i] for i in kept), offsets[owner]])
    write_output(path, text.getvalue().encode(), "offsets")


def _read_table(path: Path) -> tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot read the buffers: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PackingError(f"{path}: byte {error.start} is not UTF-8; expected a CSV text file") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = tuple(cell.strip() for cell in next(reader, []))
        _check_columns(path, columns)
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise PackingError(f"{path}, line {reader.line_num}: {len(cells)} values; expected {len(columns)}, "
                                   f"one for each of the columns {', '.join(columns)}")  # fmt: skip
            rows.append((reader.line_num, tuple(cells)))
    except csv.Error as error:
        raise PackingError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    return columns, rows


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    for name in REQUIRED:
        if name not in columns:
            raise PackingError(f"{path}, line 1: no column {name!r}; expected a header with {','.join(REQUIRED)}")
    for name in columns:
        if columns.count(name) > 1:
            raise PackingError(f"{path}, line 1: column {name!r} appears more than once")


def _parse(path: Path, line: int, cells: dict[str, str]) -> _Row:
    lower = _integer(path, line, "lower", cells, -LARGEST)
    upper = _integer(path, line, "upper", cells, -LARGEST)
    if upper <= lower:
        raise PackingError(f"{path}, line {line}, column 'upper': {upper}; expected more than lower, {lower}")
    size = _integer(path, line, "size", cells, 0)
    alignment = _integer(path, line, "alignment", cells, 1) if cells.get("alignment", "").strip() else 1
    return _Row(line, cells["id"].strip(), (lower, upper), size, alignment)


def _integer(path: Path, line: int, column: str, cells: dict[str, str], least: int) -> int:
    text = cells[column].strip()
    try:
        value = int(text)
    except ValueError as error:
        raise PackingError(f"{path}, line {line}, column {column!r}: {text!r}; expected an integer") from error
    if not least <= value <= LARGEST:
        raise PackingError(f"{path}, line {line}, column {column!r}: {value}; expected {least} to {LARGEST}")
    return value


def _buffer(path: Path, rows: list[_Row]) -> Buffer:
    first = rows[0]
    for row in rows[1:]:
        for column in ("size", "alignment"):
            if getattr(row, column) != getattr(first, column):
                raise PackingError(
                    f"{path}, line {row.line}, column {column!r}: {getattr(row, column)}; expected "
                    f"{getattr(first, column)} as on line {first.line}, the same buffer {row.id!r}"
                )
    ordered = sorted(rows, key=lambda row: row.lifetime)
    for before, after in pairwise(ordered):
        if after.lifetime[0] < before.lifetime[1]:
            raise PackingError(
                f"{path}, line {after.line}, column 'lower': buffer {after.id!r} is alive already, "
                f"by line {before.line}; expected disjoint lifetimes"
            )
    return Buffer(first.id, first.size, tuple(row.lifetime for row in ordered), first.alignment)
