"""Puts nodes between nodes that are already emitted."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx

from planc.training.emit.builder import Builder, LayerGroup

Section = list[onnx.NodeProto]
"""Nodes that will stand together at one place of the body."""


class Weave:
    """The nodes `body`, and sections that are to stand before some of them; sections of one place keep their order."""

    def __init__(self, b: Builder, body: Sequence[onnx.NodeProto]) -> None:
        self.b, self.body = b, body
        self._sections: defaultdict[int, list[Section]] = defaultdict(list)

    def section(self, position: int) -> Section:
        """A new section before the body's node `position`; one may be filled as long as nothing is woven."""
        made: Section = []
        self._sections[position].append(made)
        return made

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
            for section in self._sections.get(position, ()):
                result += section
            result.append(node)
        for section in self._sections.get(len(self.body), ()):
            result += section
        return result
