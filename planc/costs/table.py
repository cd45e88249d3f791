"""The cost table: what every layer and every copy costs on one device, measured there or estimated.

Written as JSON, keyed by model hash, device and library versions, so that a table made on one machine compiles on
another. Identical layers (equal canonical sub-model) share one entry.
"""

from dataclasses import replace

import msgspec

from planc.enums import HostTierKind
from planc.errors import DeviceError
from planc.problem.problem import Contention

FORMAT = 1


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The device that the costs hold for. `memory_bytes` is what it had free when the table was made.

    `session_bytes` of its memory go to each distinct session, for library handles and kernels.
    """

    name: str
    kind: str
    memory_bytes: int
    threads: int = 0
    session_bytes: int = 0
    versions: dict[str, str] = {}


class FormCost(msgspec.Struct, frozen=True, kw_only=True):
    """Another form of a layer, such as a convolution with less workspace: its median time and its scratch."""

    compute_ns: int
    scratch_bytes: int


class EngineCost(msgspec.Struct, frozen=True, kw_only=True):
    """A library's engine for one call of an operator of planc's own: its workspace and its median time."""

    engine: str
    workspace_bytes: int
    compute_ns: int


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """Median time of one execution, its spread, and the largest scratch allocation of one of its operators.

    `constant_bytes` are what the layer's small constants take of the scratch arena for as long as its session lives.
    `alternatives` are other forms to execute the layer in, by the name under which the runtime knows them.
    """

    compute_ns: int
    scratch_bytes: int
    spread_ns: int = 0
    constant_bytes: int = 0
    alternatives: dict[str, FormCost] = {}


EXCHANGED = LayerCost(compute_ns=0, scratch_bytes=0)
"""A layer that the exchange engine computes: what that takes is told by the link between ranks."""


class CopyPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Duration of one copy of `size` bytes, alone on the link, to the host tier and back."""

    size: int
    out_ns: int
    in_ns: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The way to the host tier, of the kind `tier`: copy times by size (ascending) and what engines cost each other, in
    ppm."""

    points: tuple[CopyPoint, ...]
    tier: HostTierKind = HostTierKind.RAM
    compute_one_copy_ppm: int = 0
    compute_two_copies_ppm: int = 0
    copy_duplex_ppm: int = 0
    copy_compute_ppm: int = 0

    @property
    def contention(self) -> Contention:
        """The slow-downs as the problem wants them."""
        return Contention(
            compute_one_copy_ppm=self.compute_one_copy_ppm,
            compute_two_copies_ppm=self.compute_two_copies_ppm,
            copy_duplex_ppm=self.copy_duplex_ppm,
            copy_compute_ppm=self.copy_compute_ppm,
        )

    def copy_ns(self, size: int) -> tuple[int, int]:
        """(out, in) duration of a copy of `size` bytes: linear between measured sizes, by the last rate beyond them."""
        points = self.points
        upper = next((i for i, p in enumerate(points) if p.size >= size), len(points))
        if upper == 0:
            return points[0].out_ns, points[0].in_ns
        if upper == len(points):
            top = points[-1]
            return top.out_ns * size // top.size, top.in_ns * size // top.size
        a, b = points[upper - 1], points[upper]
        share, span = size - a.size, b.size - a.size
        return a.out_ns + (b.out_ns - a.out_ns) * share // span, a.in_ns + (b.in_ns - a.in_ns) * share // span


class ExchangePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Duration of one exchange of `size` bytes, alone."""

    size: int
    ns: int


class ExchangeLink(msgspec.Struct, frozen=True, kw_only=True):
    """The way between the devices of `ranks` ranks: time of a sum over all by its size (ascending), and what exchanges and
    the other engines cost each other, in ppm. `name` says what exchanges, and where; `device_bytes` is what it holds of
    each rank's device all the time."""

    ranks: int
    points: tuple[ExchangePoint, ...]
    name: str
    compute_exchange_ppm: int = 0
    copy_exchange_ppm: int = 0
    exchange_compute_ppm: int = 0
    exchange_copy_ppm: int = 0
    device_bytes: int = 0

    def exchange_ns(self, size: int) -> int:
        """Duration of an exchange of `size` bytes: linear between measured sizes, by the last rate beyond them."""
        pairs = tuple(CopyPoint(size=p.size, out_ns=p.ns, in_ns=p.ns) for p in self.points)
        return Link(points=pairs).copy_ns(size)[0]


def monotone(points: tuple[CopyPoint, ...]) -> tuple[CopyPoint, ...]:
    """A larger copy never takes less time: measurement noise is lifted."""
    lifted: list[CopyPoint] = []
    for p in points:
        before = lifted[-1] if lifted else p
        lifted.append(CopyPoint(size=p.size, out_ns=max(p.out_ns, before.out_ns), in_ns=max(p.in_ns, before.in_ns)))
    return tuple(lifted)


class CostTable(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of one model on one device. `layers` follows the graph's layers as indices into `unique`.

    `model_file` is the name of the model's file, for people. `boundary_ns` is the host time of one more segment.
    `estimated` marks a table computed from published specifications instead of measured.
    `exchange` is the way to other ranks, for a step of several.
    `engines` has, by the name of a call's function, the engines worth having, from the fastest to the leanest.
    """

    format: int = FORMAT
    model_hash: str
    device: DeviceInfo
    unique: tuple[LayerCost, ...]
    layers: tuple[int, ...]
    link: Link
    boundary_ns: int = 0
    estimated: bool = False
    created: str = ""
    model_file: str = ""
    engines: dict[str, tuple[EngineCost, ...]] = {}
    exchange: ExchangeLink | None = None

    def layer(self, index: int) -> LayerCost:
        """Cost of the graph's layer `index`."""
        return self.unique[self.layers[index]]

    @property
    def exchange_bytes(self) -> int:
        """What exchanges hold of the device all the time."""
        return 0 if self.exchange is None else self.exchange.device_bytes

    @property
    def engine_table(self) -> dict[str, list[tuple[str, int]]]:
        """Engine and workspace (bytes) by call, as `planc.kernels.engines` takes them."""
        return {name: [(e.engine, e.workspace_bytes) for e in engines] for name, engines in self.engines.items()}

    def exchange_ns(self, size: int, ranks: int) -> int:
        """Duration of an exchange of so many bytes among `ranks`. Raises DeviceError where the table does not tell."""
        if self.exchange is None or self.exchange.ranks != ranks:
            known = "none" if self.exchange is None else f"one of {self.exchange.ranks}"
            raise DeviceError(
                f"the step exchanges gradients among {ranks} ranks, and the cost table knows {known}: profile it again"
            )
        return max(1, self.exchange.exchange_ns(size))

    @property
    def contention(self) -> Contention:
        """What the engines cost each other, exchanges included."""
        if self.exchange is None:
            return self.link.contention
        return replace(
            self.link.contention,
            compute_exchange_ppm=self.exchange.compute_exchange_ppm,
            copy_exchange_ppm=self.exchange.copy_exchange_ppm,
            exchange_compute_ppm=self.exchange.exchange_compute_ppm,
            exchange_copy_ppm=self.exchange.exchange_copy_ppm,
        )

    @property
    def identity(self) -> str:
        """Short text that names the table in plans and reports."""
        if self.estimated:
            return f"{self.device.name}, estimated"  # the same whenever it is made
        return f"{self.device.name}, measured {self.created}".strip()

    def check_model(self, model_hash: str, layers: int) -> None:
        """Raise DeviceError unless the table was made for this model."""
        if self.model_hash != model_hash or len(self.layers) != layers:
            raise DeviceError(
                "the cost table was made for another model "
                f"({self.model_hash[:12]}, here {model_hash[:12]}); profile this one with `planc profile`"
            )
