"""Matrices [M, C] whose channels lie last: how sums over their rows are cut, in the same order on every card."""

from collections.abc import Mapping

from planc.kernels.operator import TensorType
from planc.kernels.source import source_of, width_of

THREADS = 256
"""Of a block."""

_BLOCKS = 132 * 4
"""Blocks that a pass is cut into: four for each multiprocessor of an H100, whose figures the choice follows. It decides
the order of sums, so it is the same on every card."""


_LOADS = 4
"""Rows that a thread asks for at once, and takes at least: they take the time of one, and few ranges are joined sooner."""


class Tiling:
    """How [M, C] is cut: a block is `across` threads of `width` channels each by `down` rows; `splits` ranges of rows."""

    def __init__(self, x: TensorType) -> None:
        self.element = x.dtype
        self.channels = x.shape[-1]
        self.rows = x.size // self.channels
        self.width = width_of(x.nbytes // x.size, self.channels)
        vectors = self.channels // self.width
        self.across = next(n for n in (32, 16, 8, 4, 2, 1) if n <= vectors)
        self.down = THREADS // self.across
        self.tiles = -(-vectors // self.across)
        wanted = max(1, _BLOCKS // self.tiles)
        self.share = max(_LOADS * self.down, -(-self.rows // wanted))
        self.splits = -(-self.rows // self.share)
        self.grid = (self.tiles, self.splits, 1)
        self.joining = (-(-self.channels // 8), 1, 1)
        self.part_bytes = 4 * self.splits * self.channels
        """A float32 number for each range of rows and channel."""

    def source(self, constants: Mapping[str, int | float | bool], *files: str) -> str:
        """The files' text for these sizes."""
        sizes = {
            "C": self.channels, "M": self.rows, "W": self.width, "ACROSS": self.across, "DOWN": self.down,
            "SPLITS": self.splits, "SHARE": self.share, "INVERSE_M": 1 / self.rows,
        }  # fmt: skip
        return source_of({**sizes, **constants}, self.element, "channels.cuh", *files)
