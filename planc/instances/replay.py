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
    forms = {
        node["id"]: {"": node, **{f["name"]: f for f in node.get("alternatives", ())}} for node in instance["nodes"]
    }
    inputs: dict[Any, set[Any]] = {node: set() for node in size}
    for parent, child in instance["edges"]:
        inputs[child].add(parent)
    events = _events(answer.get("copies", []))
    held: dict[Any, int] = defaultdict(int)
    ready: set[Any] = set()
    host: set[Any] = set()
    wrong: list[str] = []
    peak = total = 0.0
    for position, entry in enumerate(answer["sequence"]):
        node = entry["node"]
        if node not in size:
            return [f"entry {position} names node {node!r}, which the instance does not have"]
        form = answer["forms"][position] if "forms" in answer else ""
        if form not in forms[node]:
            return [f"entry {position} runs node {node!r} in the form {form!r}, which it does not have"]
        total += forms[node][form]["cost"]
        for kind, value in events[position]:
            if kind == "out start" and value not in ready:
                wrong.append(f"position {position} copies {value!r} out while it is not on the device")
            if kind == "in start" and value not in host:
                wrong.append(f"position {position} copies {value!r} in before it was copied out")
            if kind == "in start":
                held[value] += 1
                ready.discard(value)
            elif kind == "out stop":
                host.add(value)
            elif kind == "in stop":
                ready.add(value)
        wrong.extend(
            f"entry {position} ({node!r}) reads {parent!r}, which is not on the device"
            for parent in sorted(inputs[node] - ready, key=str)
        )
        held[node] += 1
        ready.add(node)
        scratch = forms[node][form].get("scratch", 0)
        peak = max(peak, scratch + sum(size[value] * count for value, count in held.items()))
        for value in entry["free"]:
            if held[value] < 1:
                wrong.append(f"entry {position} releases {value!r}, which is not held")
            held[value] -= 1
            if held[value] <= 0:
                ready.discard(value)
    ran = [entry["node"] for entry in answer["sequence"]]
    wrong.extend(f"node {node!r} never runs" for node in size if node not in set(ran))
    if peak > budget:
        wrong.append(f"the peak is {peak}, over the budget of {budget}")
    if peak != answer["peak"]:
        wrong.append(f"the answer states a peak of {answer['peak']}, the replay finds {peak}")
    if abs(total - answer["objective"]) > 1e-6 * max(total, 1) and not answer.get("copies"):
        wrong.append(f"the answer states an objective of {answer['objective']}, the replay finds {total}")
    if answer["objective"] < total * (1 - 1e-6) or answer["bound"] > answer["objective"] * (1 + 1e-6):
        wrong.append("the objective is below the computation time or the bound above the objective")
    return wrong


def _events(copies: list[Mapping[str, Any]]) -> defaultdict[int, list[tuple[str, Any]]]:
    """What happens to copies at each position, in the order in which the engines allow it."""
    events: defaultdict[int, list[tuple[str, Any]]] = defaultdict(list)
    for direction in ("out", "in"):
        for end in ("start", "stop"):
            for copy in copies:
                if copy["direction"] == direction:
                    events[copy[end]].append((f"{direction} {end}", copy["node"]))
    return events
