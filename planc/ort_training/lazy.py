"""Transposes and views that stay descriptions until an operator needs the elements in order.

Graphs traced or exported by other programs are full of transposes. Here two of them cancel, a view of a transposed
tensor becomes a transposed view where it can, and a matrix product reads its operand transposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from planc.training.emit.builder import Builder, LayerGroup, Shape, Var


@dataclass(frozen=True)
class Permuted:
    """`source` with its axes permuted: axis i is the source's axis perm[i]."""

    source: Var
    perm: Shape

    @property
    def shape(self) -> Shape:
        return tuple(self.source.shape[axis] for axis in self.perm)


def composed(a: Var | Permuted, perm: Sequence[int]) -> Var | Permuted:
    """`a` with its axes permuted once more; the source itself where nothing is left to permute."""
    source, first = (a.source, a.perm) if isinstance(a, Permuted) else (a, tuple(range(a.rank)))
    total = tuple(first[axis] for axis in perm)
    return source if total == tuple(range(len(total))) else Permuted(source, total)


@dataclass(frozen=True)
class ViewThrough:
    """How a view of a permuted tensor is a permutation of a view of its source."""

    source_shape: Shape
    perm: Shape


def view_through(a: Permuted, shape: Sequence[int]) -> ViewThrough | None:
    """The view of `a` as `shape` pushed below its permutation, None where it merges axes that are not neighbours.

    Both shapes are cut into the shortest blocks of equal size; a block may be viewed otherwise if its axes lie side by
    side in the source. Axes of length one lie anywhere.
    """
    long = [(a.perm[i], d) for i, d in enumerate(a.shape) if d != 1]
    place = {axis: rank for rank, axis in enumerate(sorted(axis for axis, _ in long))}
    blocks: list[tuple[float, Shape]] = []
    taken = 0
    for axes, dims in _blocks([d for _, d in long], shape):
        places = [place[long[taken + i][0]] for i in range(axes)]
        if any(b != p + 1 for p, b in pairwise(places)):
            return None
        blocks.append((places[0] if places else float("inf"), dims))
        taken += axes
    order = sorted(range(len(blocks)), key=lambda i: blocks[i][0])
    start, starts = 0, [0] * len(blocks)
    for i in order:
        starts[i] = start
        start += len(blocks[i][1])
    perm = [starts[i] + k for i, (_, dims) in enumerate(blocks) for k in range(len(dims))]
    return ViewThrough(tuple(d for i in order for d in blocks[i][1]), tuple(perm))


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, Shape]]:
    """(number of axes of `before`, dimensions of `after`) per block; `before` has no axis of length one."""
    found, i, j = [], 0, 0
    while j < len(after):
        axes, dims, left, right = 0, [after[j]], 1, after[j]
        j += 1
        while left != right or (axes == 0 and right > 1):
            if left < right:
                left *= before[i + axes]
                axes += 1
            else:
                right *= after[j]
                dims.append(after[j])
                j += 1
        found.append((axes, tuple(dims)))
        i += axes
    return found


@dataclass
class LazyViews:
    """Permutes and views tensors, and materialises them where asked."""

    b: Builder
    resident: set[str] = field(default_factory=set)
    """Names of tensors that live through the whole step: reading them again costs no memory."""
    _copies: dict[str, list[tuple[Shape, Var, LayerGroup]]] = field(default_factory=dict)
    _views: dict[tuple[str, Shape, LayerGroup], Var] = field(default_factory=dict)

    def ordered(self, a: Var | Permuted) -> Var:
        """The tensor's elements in order."""
        return self._transposed(a) if isinstance(a, Permuted) else a

    def _transposed(self, a: Permuted) -> Var:
        """One Transpose, shared inside a group; across groups it reads a copy that lives anyway, not the source."""
        source, group = a.source, self.b.group
        copies = self._copies.setdefault(source.name, [])
        for perm, made, home in copies:
            if perm == a.perm and (home == group or source.name not in self.resident):
                return made
        base, perm = source, a.perm
        if copies and source.name not in self.resident:
            first, base, _ = copies[-1]
            perm = tuple(first.index(axis) for axis in a.perm)
        made = self.b.transpose(base, perm)
        copies.append((a.perm, made, group))
        return made

    def permuted(self, a: Var | Permuted, perm: Sequence[int]) -> Var | Permuted:
        """`a` with permuted axes, not yet materialised."""
        if isinstance(a, Permuted):
            return composed(a, perm)
        moved = [axis for axis in perm if a.shape[axis] != 1]
        if moved == sorted(moved):
            return self.viewed(a, [a.shape[axis] for axis in perm])
        return composed(a, perm)

    def viewed(self, a: Var | Permuted, shape: Sequence[int]) -> Var | Permuted:
        """A view of `a`; of a permuted tensor a permuted view where that is possible."""
        shape = tuple(int(d) for d in shape)
        if a.shape == shape:
            return a
        through = view_through(a, shape) if isinstance(a, Permuted) else None
        if isinstance(a, Permuted) and through is not None:
            return self.permuted(self.viewed(a.source, through.source_shape), through.perm)
        plain = self.ordered(a)
        key = (plain.name, shape, self.b.group)
        if key not in self._views:
            self._views[key] = self.b.reshape(plain, shape)
        return self._views[key]

    def matrix(self, a: Var | Permuted) -> tuple[Var, bool]:
        """A matrix operand and whether it is to be read transposed."""
        return (a.source, True) if isinstance(a, Permuted) else (a, False)
