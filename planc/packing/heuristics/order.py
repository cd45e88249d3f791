"""Orders in which packers take buffers: longest, largest, most crowded first, and mixtures, slightly shuffled."""

import numpy as np
import numpy.typing as npt

from planc.packing.model import Array, Model


class Orders:
    """Ranks of a model's buffers by one-letter keys, highest first, ties by the following letters.

    W: width (sections alive, gaps included); S: size; A: width times size; T: highest load met (MiniMalloc's W, A, T);
    H: sections alive of buffers with gaps, 0 for the others: nested as they leave and come back; and from the dead ends
    that a search counted per section: Z: all met over the lifetime; Y: those times the size.
    """

    def __init__(self, model: Model) -> None:
        self._starts, self._ends = model.hull()
        self._width = (self._ends - self._starts).astype(np.float64)
        self._size = model.size.astype(np.float64)
        alive = np.add.reduceat(np.append(model.upper - model.lower, 0), model.first)[:-1]
        self._gapped = np.where(np.diff(model.first) > 1, alive, 0).astype(np.float64)
        load = model.load()
        spans = np.stack([self._starts, self._ends], axis=1).ravel()
        # reduceat over [start, end) pairs; one zero at the end keeps `end == sections` a valid index.
        self._crowd = np.maximum.reduceat(np.append(load, 0), spans)[::2].astype(np.float64)

    def rank(
        self, keys: str, noise: float, random: np.random.Generator, weight: npt.NDArray[np.float64] | None = None
    ) -> Array:
        """Rank of every buffer, 0 first; every key is scaled by a log-normal factor of standard deviation `noise`."""
        columns = [self._column(key, weight) for key in keys]
        if noise:
            columns = [column * np.exp(noise * random.standard_normal(len(column))) for column in columns]
        order = np.lexsort([-column for column in reversed(columns)])
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def _column(self, key: str, weight: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        if key in "YZ" and weight is not None:
            total = np.append(0.0, np.cumsum(weight))
            met: npt.NDArray[np.float64] = total[self._ends] - total[self._starts]
            return met * self._size if key == "Y" else met
        columns = {"W": self._width, "S": self._size, "T": self._crowd, "H": self._gapped}
        return self._width * self._size if key == "A" else columns[key]
