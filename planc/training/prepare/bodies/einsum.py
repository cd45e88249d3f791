"""Einsum as a function body of matrix products, so that its gradient needs no rule of its own.

Operands are contracted from left to right. Each contraction is one batched MatMul: labels that both operands and the
rest of the equation have are the batch, labels that only the two have are summed (Kuhn et al., opt_einsum, 2018, the
tensordot case); a contraction that sums nothing is a Mul.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from planc.errors import ModelError
from planc.training.emit.builder import Shape
from planc.training.prepare.bodies.body import Body, Call, body

_SPARE = "\u0391"
"""First of the labels that stand for the axes of an ellipsis: letters that an equation cannot contain."""


@body("Einsum")
def einsum(call: Call, made: Body) -> str:
    """Any equation on operands of known shapes; a label repeated in one operand is its diagonal.

    Raises ModelError for sizes that do not agree.
    """
    equation, shapes = call.attributes["equation"], [v.shape for v in call.operands if v is not None]
    terms, wanted = _labels(equation, shapes, f"{call.where} {equation!r}")
    work = _Contraction(_sizes(terms, shapes, call.where), made)
    operands = [work.diagonal(_Operand(f"x{i}", term)) for i, term in enumerate(terms)]
    current = operands[0]
    for index in range(1, len(terms)):
        kept = {label for term in (*terms[index + 1 :], wanted) for label in term}
        current = work.contract(current, operands[index], kept)
    return work.arranged(work.summed(current, wanted), wanted).name


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
        if len(terms[-1]) != len(shape):
            raise ModelError(f"{where}: term {term!r} must name each of the {len(shape)} axes of its operand")
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
class _Contraction:
    """Emits contractions into a body; `sizes` are those of the labels."""

    sizes: dict[str, int]
    body: Body

    def diagonal(self, a: _Operand) -> _Operand:
        """`a` with every label once: of axes with the same label only equal positions are left."""
        for label in dict.fromkeys(a.labels):
            count, size = a.labels.count(label), self.sizes[label]
            if count == 1:
                continue
            others = "".join(c for c in a.labels if c != label)
            order = [i for i, c in enumerate(a.labels) if c != label] + [
                i for i, c in enumerate(a.labels) if c == label
            ]
            moved = self.body.op("Transpose", a.name, perm=order)
            rows = self.body.viewed(moved, [*(self.sizes[c] for c in others), size**count])
            places = self.body.ints([i * sum(size**k for k in range(count)) for i in range(size)])
            a = _Operand(self.body.op("Gather", rows, places, axis=len(others)), others + label)
        return a

    def summed(self, a: _Operand, kept: Collection[str]) -> _Operand:
        """`a` summed over the labels that are not in `kept`."""
        dropped = [axis for axis, label in enumerate(a.labels) if label not in kept]
        if not dropped:
            return a
        name = self.body.op("ReduceSum", a.name, self.body.ints(dropped), keepdims=0)
        return _Operand(name, "".join(label for label in a.labels if label in kept))

    def arranged(self, a: _Operand, labels: str) -> _Operand:
        """`a` with its axes in the order of `labels`."""
        if a.labels == labels:
            return a
        return _Operand(self.body.op("Transpose", a.name, perm=[a.labels.index(label) for label in labels]), labels)

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
            x = self.body.viewed(a.name, [*(self.sizes[label] for label in a.labels), *[1] * len(right)])
            y = self.body.viewed(b.name, [*shape[: len(batch)], *[1] * len(left), *shape[len(batch) + len(left) :]])
            return _Operand(self.body.op("Mul", x, y), batch + left + right)
        lead = [self.size(batch)] if batch else []
        x = self.body.viewed(a.name, [*lead, self.size(left), self.size(summed)])
        y = self.body.viewed(b.name, [*lead, self.size(summed), self.size(right)])
        product = _Operand(self.body.op("MatMul", x, y), "")
        return _Operand(self.body.viewed(product.name, shape), batch + left + right)
