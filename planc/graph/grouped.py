"""Groups of fused operators: one kernel for several, each over elements of its own shape.

A group is a fused operator (domain `planc.graph.fused.DOMAIN`) whose type begins with `PREFIX`. Its function holds the
members' bodies one after the other: the nodes of member k make tensors named `m<k>_...` and read those, or inputs of
the group. All outputs of a member have one shape; each input has that shape, or one element.

Members' threads run side by side, so no output may take the place of another member's input: a group writes over
nothing but its own old values.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from planc.graph.fused import function

PREFIX = "group_"


@dataclass(frozen=True)
class Member:
    """One member: its function, in names that depend on nothing but what it computes, and the positions of its inputs and
    outputs among the group's."""

    function: onnx.FunctionProto
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def is_group(op_type: str) -> bool:
    """Whether a fused operator of that type is a group."""
    return op_type.startswith(PREFIX)


def grouped(members: Sequence[Member], opset: int) -> onnx.FunctionProto:
    """The function of a group, named by what it computes. Positions of outputs are not read: they follow one another."""
    nodes: list[onnx.NodeProto] = []
    ends: list[str] = []
    count = 1 + max(position for member in members for position in member.inputs)
    for k, member in enumerate(members):
        given = dict(zip(member.function.input, member.inputs, strict=True))
        names = {name: f"a{position}" for name, position in given.items()}
        for node in member.function.node:
            names |= {name: f"m{k}_{name}" for name in node.output}
            nodes.append(_renamed(node, names))
        ends += [names[name] for name in member.function.output]
    content = b"".join(node.SerializeToString(deterministic=True) for node in nodes) + " ".join(ends).encode()
    name = f"{PREFIX}{hashlib.sha256(content).hexdigest()[:16]}"
    return function(name, nodes, [f"a{k}" for k in range(count)], ends, opset)


def members_of(group: onnx.FunctionProto) -> list[Member]:
    """The members, told apart by the names of what their nodes make."""
    places = {name: position for position, name in enumerate(group.input)}
    bodies: dict[str, list[onnx.NodeProto]] = {}
    for node in group.node:
        bodies.setdefault(_owner(node.output[0]), []).append(node)
    return [_member(group, owner, nodes, places) for owner, nodes in bodies.items()]


def _member(group: onnx.FunctionProto, owner: str, nodes: Sequence[onnx.NodeProto], places: dict[str, int]) -> Member:
    read = [name for name in dict.fromkeys(name for node in nodes for name in node.input) if name in places]
    names = {name: f"a{k}" for k, name in enumerate(read)}
    names |= {name: name.partition("_")[2] for node in nodes for name in node.output}
    outputs = [position for position, name in enumerate(group.output) if _owner(name) == owner]
    body = [_renamed(node, names) for node in nodes]
    ends = [names[group.output[position]] for position in outputs]
    made = function("member", body, list(names.values())[: len(read)], ends, group.opset_import[0].version)
    return Member(made, tuple(places[name] for name in read), tuple(outputs))


def _owner(name: str) -> str:
    return name.partition("_")[0]


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    copy.input.extend(names[name] for name in node.input)
    copy.output.extend(names[name] for name in node.output)
    copy.attribute.extend(node.attribute)
    return copy
