"""Puts nodes between nodes that are already emitted."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx

from planc.training.emit.builder import Builder, LayerGroup

Section = list[onnx.NodeProto]
"""Nodes that will stand together at one place of the body."""


class Weave:
    """The nodes `body`, and sections that are to stand before some of them: at one place by their turn, those of one turn
    in the order in which they were made."""

    def __init__(self, b: Builder, body: Sequence[onnx.NodeProto]) -> None:
        self.b, self.body = b, body
        self._sections: defaultdict[int, list[tuple[float, Section]]] = defaultdict(list)

    def section(self, position: int, turn: float = 0) -> Section:
        """A new section before the body's node `position`; one may be filled as long as nothing is woven."""
        made: Section = []
        self._sections[position].append((turn, made))
        return made

    def last(self) -> Section:
        """A new section behind everything but the last ones before it."""
        return self.section(len(self.body), math.inf)

    @contextmanager
    def filling(self, section: Section, group: LayerGroup) -> Iterator[Builder]:
        """What the builder emits meanwhile goes to `section`, in `group`."""
        b, outside = self.b, (self.b.nodes, self.b.group)
        b.nodes, b.group = section, group
        try:
            yield b
        finally:
            b.nodes, b.group = outside

    def woven(self) -> list[onnx.NodeProto]:
        """All nodes in order."""
        result: list[onnx.NodeProto] = []
        for position, node in enumerate(self.body):
            result += self._before(position)
            result.append(node)
        return result + self._before(len(self.body))

    def _before(self, position: int) -> list[onnx.NodeProto]:
        sections = sorted(self._sections.get(position, ()), key=lambda section: section[0])
        return [node for _, section in sections for node in section]
