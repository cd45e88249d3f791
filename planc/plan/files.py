"""Reading and writing plan files, and the plan's JSON Schema."""

from pathlib import Path
from typing import Any

import msgspec

from planc.plan.codec import encoded
from planc.plan.plan import Plan


def plan_bytes(plan: Plan) -> bytes:
    """The plan as JSON text."""
    return encoded(plan)


def write_plan(plan: Plan, path: Path) -> None:
    """Write the plan whole or not at all. Raises OutputError."""
    plan.save(path)


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises PlanError naming the file when it is missing, truncated, malformed or of another format."""
    return Plan.load(path)


def plan_schema() -> dict[str, Any]:
    """JSON Schema of a plan file, in JSON's own types: defaults that are tuples become lists."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Plan)), type=dict[str, Any])
