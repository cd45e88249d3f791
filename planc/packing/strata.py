"""Groups of buffers that pack on their own: cut apart in time, and above the buffers that live through a whole group.

A buffer that meets every other one of its group, throughout, separates what lies beneath it from what lies above: it
can be taken out, everything above moved down by its size, and it can be put back at the bottom. What is left packs as
before, and often falls into further groups.
"""

from dataclasses import dataclass

import numpy as np

from planc.packing.model import Array, Model

STRATA_BUFFERS = 20_000
"""Larger models are cut in time only: each level of a deep nest costs a pass over all buffers."""

_LEVELS = 64
"""Deepest nest of buffers that live through a whole group which is taken apart."""


@dataclass(frozen=True)
class Stratum:
    """The buffers at positions `chosen` of a model, as a model of their own that lies on `base` bytes."""

    model: Model
    chosen: Array
    base: int


def strata(model: Model) -> tuple[Array, list[Stratum]]:
    """Offsets (bytes) of the buffers that need no packing, 0 for all others, and the groups of these others.

    An optimal packing of every group, moved up by its base, is an optimal packing of the model.
    """
    offsets = np.zeros(model.count, np.int64)
    found: list[Stratum] = []
    uniform = model.count <= STRATA_BUFFERS and len(np.unique(model.alignment)) == 1
    pending = [(Stratum(model, np.arange(model.count), 0), _LEVELS if uniform else 0)] if model.count else []
    while pending:
        above, levels = pending.pop()
        for members in above.model.components():
            part = Stratum(above.model.select(members).compact(), above.chosen[members], above.base)
            through = part.model.spanning() if levels else np.zeros(part.model.count, np.bool_)
            if not through.any():
                found.append(part)
                continue
            size = part.model.size[through]
            offsets[part.chosen[through]] = part.base + np.cumsum(size) - size
            rest = np.flatnonzero(~through)
            if len(rest):
                left = Stratum(part.model.select(rest), part.chosen[rest], part.base + int(size.sum()))
                pending.append((left, levels - 1))
    return offsets, found
