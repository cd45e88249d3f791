"""Network families that `planc zoo` can build, discovered through the entry-point group `planc.models`."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import onnx

from planc.errors import UsageError


@dataclass(frozen=True)
class ZooOptions:
    """What a user may ask of a family; None means the network's own default."""

    batch: int | None = None
    image: int | None = None
    depth: int | None = None
    width: int | None = None
    seq: int | None = None
    classes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ForwardModel:
    """A forward graph ready to be differentiated.

    `model` has concrete shapes, parameters as float32 initializers, one output of logits, and node annotations
    (`planc.graph.annotations`). `loss` names the loss to put on it.
    """

    model: onnx.ModelProto
    loss: str = "cross-entropy"


class ModelFamily(Protocol):
    """One network family; `names` maps each network name to a one-line description."""

    @property
    def names(self) -> Mapping[str, str]: ...

    def build(self, name: str, options: ZooOptions) -> ForwardModel:
        """The forward model of network `name`. Raises UsageError for an option the network cannot take."""
        ...


def families() -> dict[str, ModelFamily]:
    """Every network name known to the installed families."""
    found: dict[str, ModelFamily] = {}
    for entry in entry_points(group="planc.models"):
        family: ModelFamily = entry.load()
        found.update(dict.fromkeys(family.names, family))
    return found


def build_forward(name: str, options: ZooOptions) -> ForwardModel:
    """The forward model of zoo network `name`. Raises UsageError when no family knows it."""
    known = families()
    if name not in known:
        raise UsageError(f"unknown network {name!r}: choose one of {', '.join(sorted(known))}")
    return known[name].build(name, options)
