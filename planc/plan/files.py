"""Reading and writing plan files, and the plan's JSON Schema."""

from pathlib import Path
from typing import Any

import msgspec

from planc.errors import PlanError
from planc.files import UNREADABLE, read_file, write_output
from planc.plan.plan import FORMAT, Plan


def plan_bytes(plan: Plan) -> bytes:
    """The plan as JSON text."""
    return msgspec.json.encode(plan) + b"\n"


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan whole or not at all. Raises OutputError."""
    write_output(path, plan_bytes(plan), "plan")


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises PlanError naming the file when it is missing, truncated, malformed or of another format."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(read_file(path), type=dict[str, Any])
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such plan; make one with `planc compile`") from error
    except UNREADABLE as error:
        raise PlanError(f"{path}: not a readable plan, perhaps truncated ({error}); compile it again") from error
    if raw.get("format") != FORMAT:
        raise PlanError(f"{path}: plan format {raw.get('format')!r}, this planc reads {FORMAT}; compile it again")
    try:
        return msgspec.convert(raw, Plan)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: not a valid plan ({error}); compile it again") from error


def plan_schema() -> dict[str, Any]:
    """JSON Schema of a plan file, in JSON's own types: defaults that are tuples become lists."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Plan)), type=dict[str, Any])
