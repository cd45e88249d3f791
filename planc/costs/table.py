"""The cost table: what every layer and every copy costs on one device, measured there or estimated.

Written as JSON, keyed by model hash, device and library versions, so that a table made on one machine compiles on
another. Identical layers (equal canonical sub-model) share one entry.
"""

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

    def layer(self, index: int) -> LayerCost:
        """Cost of the graph's layer `index`."""
        return self.unique[self.layers[index]]

    @property
    def engine_table(self) -> dict[str, list[tuple[str, int]]]:
        """Engine and workspace (bytes) by call, as `planc.kernels.engines` takes them."""
        return {name: [(e.engine, e.workspace_bytes) for e in engines] for name, engines in self.engines.items()}

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
