"""MiniMalloc's CSV of buffers: `id,lower,upper,size`, with its `alignment`, `gaps` and `offset`, here also with several
rows per id.

A row says that the buffer `id` needs `size` bytes at the times [lower, upper), but not in the `gaps` [a, b) within,
written `a-b` and separated by blanks; several rows with the same id are one buffer. A buffer with an `offset` stays
there. MiniMalloc's older names of columns are read too; in a column `end`, times are the last ones and not those after.
Further columns, its `hint` among them, are kept as they are.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from planc.errors import UsageError
from planc.file_kinds import not_the
from planc.files import read_file, write_output
from planc.packing.buffers import Buffer, PackingError
from planc.packing.gaps import without_gaps

REQUIRED = ("id", "lower", "upper", "size")
LARGEST = 2**60

_OLDER_NAMES = {"buffer": "id", "buffer_id": "id", "begin": "lower", "start": "lower", "end": "upper"}


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
    lifetimes: tuple[tuple[int, int], ...]
    size: int
    alignment: int
    pinned: int | None


def read_buffers(path: Path) -> BufferTable:
    """Read a file of buffers. Raises PackingError naming the line and column, UsageError when it cannot be opened."""
    columns, numbered = _read_table(path)
    names, past_end = [_OLDER_NAMES.get(name, name) for name in columns], int("end" in columns)
    rows = [_parse(path, line, dict(zip(names, cells, strict=True)), past_end) for line, cells in numbered]
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
        why = not_the("table of buffers", path, f"byte {error.start} is not UTF-8")
        raise PackingError(f"{why}; expected a CSV text file") from error
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
        why = not_the("table of buffers", path, f"line {reader.line_num}: not valid CSV: {error}")
        raise PackingError(why) from error
    return columns, rows


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    names = [_OLDER_NAMES.get(name, name) for name in columns]
    for name in REQUIRED:
        if name not in names:
            why = not_the("table of buffers", path, f"line 1: no column {name!r}")
            raise PackingError(f"{why}; expected a header with {','.join(REQUIRED)}")
    for name, column in zip(names, columns, strict=True):
        if names.count(name) > 1:
            raise PackingError(f"{path}, line 1: column {column!r} appears more than once, or under two names")


def _parse(path: Path, line: int, cells: dict[str, str], past_end: int) -> _Row:
    lower = _integer(path, line, "lower", cells, -LARGEST)
    upper = _integer(path, line, "upper", cells, -LARGEST) + past_end
    if upper <= lower:
        raise PackingError(f"{path}, line {line}, column 'upper': {upper}; expected more than lower, {lower}")
    size = _integer(path, line, "size", cells, 0)
    alignment = _integer(path, line, "alignment", cells, 1) if cells.get("alignment", "").strip() else 1
    pinned = _integer(path, line, "offset", cells, 0) if cells.get("offset", "").strip() else None
    where = f"{path}, line {line}, column 'gaps'"
    lifetimes = without_gaps(where, (lower, upper), cells.get("gaps", ""), past_end)
    return _Row(line, cells["id"].strip(), lifetimes, size, alignment, pinned)


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
        for column, field in (("size", "size"), ("alignment", "alignment"), ("offset", "pinned")):
            if getattr(row, field) != getattr(first, field):
                raise PackingError(
                    f"{path}, line {row.line}, column {column!r}: {getattr(row, field)}; expected "
                    f"{getattr(first, field)} as on line {first.line}, the same buffer {row.id!r}"
                )
    ordered = sorted((lifetime, row.line) for row in rows for lifetime in row.lifetimes)
    for ((_, end), earlier), ((begin, _), line) in pairwise(ordered):
        if begin < end:
            raise PackingError(
                f"{path}, line {line}, column 'lower': buffer {first.id!r} is alive already, "
                f"by line {earlier}; expected disjoint lifetimes"
            )
    return Buffer(first.id, first.size, tuple(lifetime for lifetime, _ in ordered), first.alignment, first.pinned)
