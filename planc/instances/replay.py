"""Replay of a `planc solve` answer against its instance file, sharing no code with the solver or its memory accounting.

An output is claimed when its entry runs, or at the `start` of its copy in, and released by a later entry's `free`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any


def replay(instance: Mapping[str, Any], answer: Mapping[str, Any], budget: float) -> list[str]:
    """What is wrong with `answer` (both as decoded JSON); empty when it computes the instance within `budget` bytes.

    Checks that every node runs, with its inputs on the device; that only held outputs are released; that copies follow
    each other as the link allows; and that the answer's `peak` and, without copies, its `objective` are the true ones.
    """
    run = _Replay(instance)
    events = _events(answer.get("copies", []))
    for position, entry in enumerate(answer["sequence"]):
        form = answer["forms"][position] if "forms" in answer else ""
        unknown = run.unknown(position, entry["node"], form)
        if unknown:
            return [unknown]
        for kind, value in events[position]:
            run.copy(position, kind, value)
        run.execute(position, entry["node"], form)
        for value in entry["free"]:
            run.release(position, value)
    ran = {entry["node"] for entry in answer["sequence"]}
    missing = (f"node {node!r} never runs" for node in run.size if node not in ran)
    return [*run.wrong, *missing, *_misstated(answer, run.peak, run.total, budget)]


class _Replay:
    """What lies on the device and on the host while the sequence runs, and what was wrong so far."""

    def __init__(self, instance: Mapping[str, Any]) -> None:
        nodes = instance["nodes"]
        self.size = {node["id"]: node["bytes"] for node in nodes}
        self.forms = {n["id"]: {"": n, **{f["name"]: f for f in n.get("alternatives", ())}} for n in nodes}
        self.inputs: dict[Any, set[Any]] = {node: set() for node in self.size}
        for parent, child in instance["edges"]:
            self.inputs[child].add(parent)
        self.held: dict[Any, int] = defaultdict(int)
        """How often each output has bytes on the device."""
        self.ready: set[Any] = set()
        self.host: set[Any] = set()
        self.wrong: list[str] = []
        self.peak = self.total = 0.0

    def unknown(self, position: int, node: Any, form: str) -> str | None:
        """What the instance does not have of that entry."""
        if node not in self.size:
            return f"entry {position} names node {node!r}, which the instance does not have"
        if form not in self.forms[node]:
            return f"entry {position} runs node {node!r} in the form {form!r}, which it does not have"
        return None

    def copy(self, position: int, kind: str, value: Any) -> None:
        """An end of a copy, at the start of an entry."""
        if kind == "out start" and value not in self.ready:
            self.wrong.append(f"position {position} copies {value!r} out while it is not on the device")
        if kind == "in start" and value not in self.host:
            self.wrong.append(f"position {position} copies {value!r} in before it was copied out")
        if kind == "in start":
            self.held[value] += 1
            self.ready.discard(value)
        elif kind == "out stop":
            self.host.add(value)
        elif kind == "in stop":
            self.ready.add(value)

    def execute(self, position: int, node: Any, form: str) -> None:
        """Run a node that the instance has."""
        self.wrong.extend(
            f"entry {position} ({node!r}) reads {parent!r}, which is not on the device"
            for parent in sorted(self.inputs[node] - self.ready, key=str)
        )
        chosen = self.forms[node][form]
        self.total += chosen["cost"]
        self.held[node] += 1
        self.ready.add(node)
        held = sum(self.size[value] * count for value, count in self.held.items())
        self.peak = max(self.peak, chosen.get("scratch", 0) + held)

    def release(self, position: int, value: Any) -> None:
        """Give back the bytes of an output."""
        if self.held[value] < 1:
            self.wrong.append(f"entry {position} releases {value!r}, which is not held")
        self.held[value] -= 1
        if self.held[value] <= 0:
            self.ready.discard(value)


def _misstated(answer: Mapping[str, Any], peak: float, total: float, budget: float) -> Iterator[str]:
    """What the answer states that the replay finds otherwise."""
    if peak > budget:
        yield f"the peak is {peak}, over the budget of {budget}"
    if peak != answer["peak"]:
        yield f"the answer states a peak of {answer['peak']}, the replay finds {peak}"
    if abs(total - answer["objective"]) > 1e-6 * max(total, 1) and not answer.get("copies"):
        yield f"the answer states an objective of {answer['objective']}, the replay finds {total}"
    if answer["objective"] < total * (1 - 1e-6) or answer["bound"] > answer["objective"] * (1 + 1e-6):
        yield "the objective is below the computation time or the bound above the objective"


def _events(copies: list[Mapping[str, Any]]) -> defaultdict[int, list[tuple[str, Any]]]:
    """What happens to copies at each position, in the order in which the engines allow it."""
    events: defaultdict[int, list[tuple[str, Any]]] = defaultdict(list)
    for direction in ("out", "in"):
        for end in ("start", "stop"):
            for copy in copies:
                if copy["direction"] == direction:
                    events[copy[end]].append((f"{direction} {end}", copy["node"]))
    return events
