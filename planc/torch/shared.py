"""Several compiled steps over the same parameters: a generator's and a discriminator's, or losses that take turns."""

import weakref
from threading import RLock
from typing import TYPE_CHECKING

from torch.utils.weak import WeakIdKeyDictionary

from planc.errors import UsageError

if TYPE_CHECKING:
    from planc.torch.step import CompiledStep


class Shared:
    """Give the same one to every `compile_step` whose modules have parameters or buffers in common.

    Each step then starts from what the one before left: when another takes its turn, the state goes through the modules,
    which hold the trained state at that point. Parameters that a step reads and does not train are state of its plan too.
    """

    def __init__(self) -> None:
        self._active: CompiledStep | None = None
        self.lock = RLock()
        """Held by whoever uses one of the steps."""

    def enter(self, step: "CompiledStep") -> None:
        """Make `step` the one that holds the newest state."""
        if self._active is step:
            return
        if self._active is not None:
            self._active.require_unchanged()
            self._active.sync()
            step.refresh()
        self._active = step

    def leave(self, step: "CompiledStep") -> None:
        """`step` is about to be closed."""
        if self._active is step:
            step.sync()
            self._active = None

    @property
    def active(self) -> "CompiledStep | None":
        """The step that holds the newest state, None before the first."""
        return self._active


class _Holders:
    """Which open step trains a tensor."""

    def __init__(self) -> None:
        self._steps: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def claim(self, step: "CompiledStep") -> None:
        """Note that `step` holds the values of its module. Raises UsageError where another open step does already."""
        model = step.maker.owner
        tensors = [*model.named_parameters(), *model.named_buffers()]
        for name, tensor in tensors:
            found = self._steps.get(tensor)
            other = found() if found is not None else None
            if other is None or other is step or other.closed or _together(step, other):
                continue
            raise UsageError(
                f"{name!r} belongs to another compiled step that is open: close() that one first, after sync(), or give "
                "both the same shared=planc.torch.Shared() so that they train one state"
            )
        for _, tensor in tensors:
            self._steps[tensor] = weakref.ref(step)


def _together(step: "CompiledStep", other: "CompiledStep") -> bool:
    return step.shared is not None and step.shared is other.shared


HOLDERS = _Holders()
"""Of all steps of this process."""
