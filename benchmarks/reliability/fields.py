"""Every field of a plan, a cost table and a graph instance with values that it should not have, one at a time."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.count import Count
from benchmarks.reliability.hostile import sound
from benchmarks.reliability.limits import command

_ODD: tuple[object, ...] = (
    -1, 0, 1, 1 << 31, 1 << 40, 1 << 62, 1 << 64, 0.5, 1e308, True, None, "", "\x1b]0;x\x07", "../../etc/passwd", "9" * 400,
    [], {}, [[]] * 3,
)  # fmt: skip
"""Numbers around what integers hold, and everything of another type."""

_READ: dict[str, list[tuple[object, ...]]] = {
    "train.plan.json": [
        ("inspect", "train.plan.json", "--at-peak", "--html", "p.html", "--trace", "t.json"),
        ("verify", "train.plan.json"), ("run", "train.plan.json", "--steps", "1")],
    "costs.json": [
        ("costs", "costs.json"),
        ("compile", "train.onnx", "--costs", "costs.json", "--solver", "keep-all", "-o", "new.plan.json")],
    "graph.json": [("solve", "graph.json", "--budget", "80%", "--solver", "sqrt-n", "--time-limit", "0.2")],
}  # fmt: skip

INSTANCE = {
    "name": "g",
    "nodes": [{"id": i, "name": f"n{i}", "cost": 1.5, "bytes": 100, "backward": i > 1, "scratch": 10,
               "alternatives": [{"name": "slow", "cost": 2, "scratch": 0}]} for i in range(4)],
    "edges": [[0, 1], [1, 2], [0, 3], [2, 3]],
    "order": [0, 1, 2, 3],
}  # fmt: skip
"""A small graph instance."""


def odd_fields(scale: int) -> dict[str, Count]:
    """Each kind of field (its first and last in the file) with each odd value; in the short form every 40th of them."""
    count = Count()
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        sound(whole)
        (whole / "graph.json").write_text(json.dumps(INSTANCE))
        serial = 0
        for file, commands in _READ.items():
            document = json.loads((whole / file).read_text())
            for path in _fields(document):
                for value in _ODD:
                    serial += 1
                    if scale < 10 and serial % 40:
                        continue
                    here = Path(shutil.copytree(whole, Path(name) / "here"))
                    (here / file).write_text(json.dumps(_changed(document, path, value)))
                    for arguments in commands:
                        fault = command(arguments, here)
                        count.add(None if fault is None else f"{arguments[0]} {path} = {str(value)[:20]}: {fault}")
                    shutil.rmtree(here)
    return {"fields with odd values": count}


def _fields(document: Any) -> Iterator[tuple[str | int, ...]]:
    """Paths of values, of every list the first and the last element only."""
    seen: dict[tuple[object, ...], None] = {}

    def walk(value: Any, path: tuple[str | int, ...]) -> None:
        seen[path] = None
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key))
        elif isinstance(value, list) and value:
            for index in sorted({0, len(value) - 1}):
                walk(value[index], (*path, index))

    walk(document, ())
    return iter(path for path in seen if path)  # type: ignore[misc]


def _changed(document: Any, path: tuple[str | int, ...], value: object) -> Any:
    copy = json.loads(json.dumps(document))
    at = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return copy
