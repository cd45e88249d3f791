"""A structure as a JSON file with a format number, and back."""

import inspect
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from planc.errors import PlanError
from planc.file_kinds import not_the
from planc.files import UNREADABLE, read_json

T = TypeVar("T")


def encoded(value: msgspec.Struct) -> bytes:
    """The structure as JSON text."""
    return msgspec.json.encode(value) + b"\n"


def decoded(path: Path, kind: type[T], formats: tuple[int, ...]) -> T:
    """Read a plan. Raises PlanError naming the file when it is missing, truncated, malformed or of another format."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(read_json(path), type=dict[str, Any])
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such plan; make one with `planc compile`") from error
    except UNREADABLE as error:
        why = not_the("plan", path, f"perhaps truncated: {error}")
        raise PlanError(f"{why}; make a plan with `planc compile`") from error
    if "planc" not in raw:
        raise PlanError(f"{not_the('plan', path, 'it names no version of planc')}; make a plan with `planc compile`")
    if raw.get("format") not in formats:
        known = " and ".join(map(str, formats))
        raise PlanError(f"{path}: plan format {raw.get('format')!r}, this planc reads {known}; compile it again")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: not a valid plan ({error}); compile it again") from error


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of the file, in JSON's own types: defaults that are tuples become lists. Descriptions are docstrings
    without their indentation, which some versions of Python keep."""
    found = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(kind)), type=dict[str, Any])
    for described in (found, *found.get("$defs", {}).values()):
        if "description" in described:
            described["description"] = inspect.cleandoc(described["description"])
    return found
