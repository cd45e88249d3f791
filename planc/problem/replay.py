"""Replay of a `planc solve` answer against its instance file, sharing no code with the solver or its memory accounting.

An output is claimed when its entry runs, or at the `start` of its copy in, and released by a later entry's `free`.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any


def replay(instance: Mapping[str, Any], answer: Mapping[str, Any], budget: float) -> list[str]:
    """What is wrong with `answer` (both as decoded JSON); empty when it computes the instance within `budget` bytes.

    Checks that every node runs, with its inputs on the device; that only held outputs are released; that copies follow
    each other as the link allows; and that the answer's `peak` and, without copies, its `objective` are the true ones.
    """
    size = {node["id"]: node["bytes"] for node in instance["nodes"]}
    cost = {node["id"]: node["cost"] for node in instance["nodes"]}
    inputs: dict[Any, set[Any]] = {node: set() for node in size}
    for parent, child in instance["edges"]:
        inputs[child].add(parent)
    starts, stops = _copies(answer.get("copies", []))
    held: dict[Any, int] = defaultdict(int)
    ready: set[Any] = set()
    host: set[Any] = set()
    wrong: list[str] = []
    peak = 0.0
    for position, entry in enumerate(answer["sequence"]):
        node = entry["node"]
        if node not in size:
            return [f"entry {position} names node {node!r}, which the instance does not have"]
        for value, direction in starts.pop(position, ()):
            if direction == "out" and value not in ready:
                wrong.append(f"position {position} copies {value!r} out while it is not on the device")
            if direction == "in":
                held[value] += 1
                if value not in host:
                    wrong.append(f"position {position} copies {value!r} in before it was copied out")
        for value, direction in stops.pop(position, ()):
            (host if direction == "out" else ready).add(value)
        wrong.extend(
            f"entry {position} ({node!r}) reads {parent!r}, which is not on the device"
            for parent in sorted(inputs[node] - ready, key=str)
        )
        held[node] += 1
        ready.add(node)
        peak = max(peak, sum(size[value] * count for value, count in held.items()))
        for value in entry["free"]:
            if held[value] < 1:
                wrong.append(f"entry {position} releases {value!r}, which is not held")
            held[value] -= 1
            if held[value] <= 0:
                ready.discard(value)
    ran = [entry["node"] for entry in answer["sequence"]]
    wrong.extend(f"node {node!r} never runs" for node in size if node not in set(ran))
    total = sum(cost[node] for node in ran)
    if peak > budget:
        wrong.append(f"the peak is {peak}, over the budget of {budget}")
    if peak != answer["peak"]:
        wrong.append(f"the answer states a peak of {answer['peak']}, the replay finds {peak}")
    if abs(total - answer["objective"]) > 1e-6 * max(total, 1) and not answer.get("copies"):
        wrong.append(f"the answer states an objective of {answer['objective']}, the replay finds {total}")
    if answer["objective"] < total * (1 - 1e-6) or answer["bound"] > answer["objective"] * (1 + 1e-6):
        wrong.append("the objective is below the computation time or the bound above the objective")
    return wrong


def _copies(copies: list[Mapping[str, Any]]) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
    """Copies by the position at which they start and by the one that awaits them; outs before ins."""
    starts: defaultdict[int, list[Any]] = defaultdict(list)
    stops: defaultdict[int, list[Any]] = defaultdict(list)
    for copy in sorted(copies, key=lambda c: c["direction"] == "in"):
        starts[copy["start"]].append((copy["node"], copy["direction"]))
        stops[copy["stop"]].append((copy["node"], copy["direction"]))
    return dict(starts), dict(stops)
