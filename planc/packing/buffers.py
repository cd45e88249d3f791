"""What is packed, and a packing of it."""

from dataclasses import dataclass

from planc.enums import Status
from planc.errors import PlancError


@dataclass(frozen=True, slots=True)
class Buffer:
    """`size` bytes needed at the half-open integer time intervals `lifetimes` (sorted, disjoint, each non-empty).

    Its offset will be a multiple of `alignment` bytes, or `pinned`, where that is given. Several intervals are a lifetime
    with gaps: in a gap other buffers may use the bytes.
    """

    id: str
    size: int
    lifetimes: tuple[tuple[int, int], ...]
    alignment: int = 1
    pinned: int | None = None


@dataclass(frozen=True)
class Packing:
    """Offsets in bytes, in the order of the buffers, and what is known about them.

    `height` is the highest byte used; no packing can be lower than `lower_bound`. `status`: `optimal` when the two are
    equal, `feasible` otherwise; with a capacity that was not met, `infeasible` when no packing can meet it and
    `timeout` when the time limit left that open (the offsets are then the best packing found, above the capacity).
    """

    offsets: tuple[int, ...]
    height: int
    lower_bound: int
    status: Status
    solve_s: float


class PackingError(PlancError):
    """The buffers or the options given to the packer are malformed."""
