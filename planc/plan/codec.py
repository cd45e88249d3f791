"""A structure as a JSON file with a format number, and back."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from planc.errors import PlanError
from planc.files import UNREADABLE, read_file

T = TypeVar("T")


def encoded(value: msgspec.Struct) -> bytes:
    """The structure as JSON text."""
    return msgspec.json.encode(value) + b"\n"


def decoded(path: Path, kind: type[T], file_format: int) -> T:
    """Read a plan. Raises PlanError naming the file when it is missing, truncated, malformed or of another format."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(read_file(path), type=dict[str, Any])
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such plan; make one with `planc compile`") from error
    except UNREADABLE as error:
        raise PlanError(f"{path}: not a readable plan, perhaps truncated ({error}); compile it again") from error
    if raw.get("format") != file_format:
        raise PlanError(f"{path}: plan format {raw.get('format')!r}, this planc reads {file_format}; compile it again")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: not a valid plan ({error}); compile it again") from error
