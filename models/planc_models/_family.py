"""What every network family shares: its entries, and the check of a user's options against what an entry takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from planc.errors import UsageError
from planc.zoo import ForwardModel, ZooOptions
from planc_models._network import Blueprint

ALWAYS = frozenset({"batch", "classes", "seed"})

_DEEPEST, _LARGEST = 100_000, 2**31 - 1
"""Layers that are still a graph which planc imports, and what a dimension may be."""


@dataclass(frozen=True)
class Entry:
    """One network: its description, the options it takes beyond batch, classes and seed, and its builder."""

    description: str
    takes: frozenset[str]
    build: Callable[[str, ZooOptions], Blueprint]


@dataclass(frozen=True)
class Family:
    """Networks by name; implements planc.zoo.ModelFamily."""

    entries: Mapping[str, Entry]

    @property
    def names(self) -> Mapping[str, str]:
        return {name: entry.description for name, entry in self.entries.items()}

    def build(self, name: str, options: ZooOptions, values: bool = True) -> ForwardModel:
        """The forward model. Raises UsageError for an option that is not positive or that `name` does not take."""
        entry = self.entries[name]
        for field in fields(options):
            value = getattr(options, field.name)
            if field.name == "seed" and not 0 <= value < 2**63:
                raise UsageError(f"{name}: --seed must be from 0 to 2**63 - 1, not {value}")
            if value is None or field.name == "seed":
                continue
            if field.name not in ALWAYS | entry.takes:
                listed = ", ".join(f"--{option}" for option in sorted(entry.takes | ALWAYS))
                raise UsageError(f"{name} takes no --{field.name}; it takes {listed}")
            if value < 1:
                raise UsageError(f"{name}: --{field.name} must be at least 1, not {value}")
            most = _DEEPEST if field.name == "depth" else _LARGEST
            if value > most:
                raise UsageError(f"{name}: --{field.name} must be at most {most}, not {value}")
        blueprint = entry.build(name, options)
        return ForwardModel(blueprint.model(values), blueprint.parameters)


IMAGE = frozenset({"image", "width"})
"""Options of an image network: the side of the image, and the channels of its first convolution."""


@dataclass(frozen=True)
class Scale:
    """Channel counts of a network whose first convolution has `first` channels in the paper and `wanted` here."""

    first: int
    wanted: int

    def __call__(self, channels: int, multiple: int = 1) -> int:
        """`channels` scaled in proportion, at least `multiple` and a multiple of it."""
        return max(multiple, round(channels * self.wanted / self.first / multiple) * multiple)
