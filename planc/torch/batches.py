"""A loader whose place in the data can be saved and found again."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch


class Batches:
    """The batches of `loader`, epoch after epoch, with `state_dict` and `load_state_dict`.

    Iterating gives the rest of the current epoch. An epoch that is taken up again draws the same order, because torch's
    generator is set to where the epoch began, the batches that were seen are skipped, and the generator is put back.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.epoch, self.batch = 0, 0
        """Epochs finished, and batches of the current one that were given out."""
        self._began: torch.Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        skipped = self.batch
        if skipped and self._began is not None:
            now = torch.get_rng_state()
            torch.set_rng_state(self._began)
        else:
            self._began, now, skipped, self.batch = torch.get_rng_state(), None, 0, 0
        batches = iter(self.loader)
        for _ in range(skipped):
            next(batches, None)
        if now is not None:
            torch.set_rng_state(now)
        for found in batches:
            self.batch += 1
            yield found
        self.epoch, self.batch, self._began = self.epoch + 1, 0, None

    def state_dict(self) -> dict[str, Any]:
        """The place in the data, as plain values."""
        began = None if self._began is None else self._began.tolist()
        return {"epoch": self.epoch, "batch": self.batch, "began": began}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place that `state_dict` told."""
        self.epoch, self.batch, began = state["epoch"], state["batch"], state["began"]
        self._began = None if began is None else torch.from_numpy(np.array(began, np.uint8))
