"""Einsum as a function body of matrix products, so that its gradient needs no rule of its own.

Operands are contracted from left to right. Each contraction is one batched MatMul: labels that both operands and the
rest of the equation have are the batch, labels that only the two have are summed (Kuhn et al., opt_einsum, 2018, the
tensordot case); a contraction that sums nothing is a Mul.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper

from planc.errors import ModelError
from planc.training.emit.builder import Shape

_SPARE = "\u0391"
"""First of the labels that stand for the axes of an ellipsis: letters that an equation cannot contain."""


def einsum_body(call: onnx.NodeProto, shapes: Sequence[Shape], version: int) -> onnx.FunctionProto:
    """The function body of Einsum node `call` on operands of known `shapes`, for opset `version`.

    Raises ModelError for a label repeated in one operand (a diagonal) and for sizes that do not agree.
    """
    equation = next(a.s.decode() for a in call.attribute if a.name == "equation")
    where = f"node {call.name!r} (Einsum {equation!r})"
    terms, wanted = _labels(equation, shapes, where)
    body = _Body(_sizes(terms, shapes, where))
    current = _Operand("x0", terms[0])
    for index in range(1, len(terms)):
        kept = {label for term in (*terms[index + 1 :], wanted) for label in term}
        current = body.contract(current, _Operand(f"x{index}", terms[index]), kept)
    current = body.arranged(body.summed(current, wanted), wanted)
    if not body.nodes:
        body.op("Identity", current.name)
    body.nodes[-1].output[0] = "y"
    inputs = [f"x{i}" for i in range(len(terms))]
    return helper.make_function("", "Einsum", inputs, ["y"], body.nodes, [helper.make_opsetid("", version)])


def _labels(equation: str, shapes: Sequence[Shape], where: str) -> tuple[list[str], str]:
    """One label an axis, for every operand and for the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    listed = left.split(",")
    if len(listed) != len(shapes):
        raise ModelError(f"{where}: {len(listed)} terms, but {len(shapes)} operands")
    dots = max(
        (len(shape) - len(term) + 3 for term, shape in zip(listed, shapes, strict=True) if "..." in term), default=0
    )
    spare = "".join(chr(ord(_SPARE) + i) for i in range(dots))
    terms = []
    for term, shape in zip(listed, shapes, strict=True):
        count = len(shape) - len(term) + 3
        terms.append(term.replace("...", spare[dots - count :] if count else ""))
        if len(terms[-1]) != len(shape) or len(set(terms[-1])) != len(shape):
            raise ModelError(f"{where}: term {term!r} must name each of the {len(shape)} axes of its operand once")
    every = "".join(terms)
    implied = "..." * bool(dots) + "".join(sorted(c for c in set(every) - set(spare) if every.count(c) == 1))
    return terms, (right if arrow else implied).replace("...", spare)


def _sizes(terms: Sequence[str], shapes: Sequence[Shape], where: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            if sizes.setdefault(label, size) != size:
                raise ModelError(f"{where}: an axis has {size} elements in one operand and {sizes[label]} in another")
    return sizes


@dataclass(frozen=True)
class _Operand:
    name: str
    labels: str


@dataclass
class _Body:
    """Nodes of the body; `sizes` are those of the labels."""

    sizes: dict[str, int]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def ints(self, numbers: Sequence[int]) -> str:
        return self.op("Constant", value_ints=list(numbers))

    def summed(self, a: _Operand, kept: Collection[str]) -> _Operand:
        """`a` summed over the labels that are not in `kept`."""
        dropped = [axis for axis, label in enumerate(a.labels) if label not in kept]
        if not dropped:
            return a
        name = self.op("ReduceSum", a.name, self.ints(dropped), keepdims=0)
        return _Operand(name, "".join(label for label in a.labels if label in kept))

    def arranged(self, a: _Operand, labels: str) -> _Operand:
        """`a` with its axes in the order of `labels`."""
        if a.labels == labels:
            return a
        return _Operand(self.op("Transpose", a.name, perm=[a.labels.index(label) for label in labels]), labels)

    def viewed(self, a: _Operand, shape: Sequence[int]) -> str:
        return self.op("Reshape", a.name, self.ints(shape))

    def size(self, labels: str) -> int:
        return math.prod(self.sizes[label] for label in labels)

    def contract(self, a: _Operand, b: _Operand, kept: Collection[str]) -> _Operand:
        """The product of `a` and `b`, summed over what only they have."""
        a, b = self.summed(a, {*b.labels, *kept}), self.summed(b, {*a.labels, *kept})
        shared = [label for label in a.labels if label in b.labels]
        batch = "".join(label for label in shared if label in kept)
        summed = "".join(label for label in shared if label not in kept)
        left = "".join(label for label in a.labels if label not in shared)
        right = "".join(label for label in b.labels if label not in shared)
        a, b = self.arranged(a, batch + left + summed), self.arranged(b, batch + summed + right)
        shape = [self.sizes[label] for label in batch + left + right]
        if not summed:
            x = self.viewed(a, [*(self.sizes[label] for label in a.labels), *[1] * len(right)])
            y = self.viewed(b, [*shape[: len(batch)], *[1] * len(left), *shape[len(batch) + len(left) :]])
            return _Operand(self.op("Mul", x, y), batch + left + right)
        lead = [self.size(batch)] if batch else []
        x = self.viewed(a, [*lead, self.size(left), self.size(summed)])
        y = self.viewed(b, [*lead, self.size(summed), self.size(right)])
        product = _Operand(self.op("MatMul", x, y), "")
        return _Operand(self.viewed(product, shape), batch + left + right)
