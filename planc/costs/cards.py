"""Published figures of cards, each with its source.

`flops` is the peak rate of float32 on the ordinary units; `matrix_flops` that of float32 products as the runtime lets
them run: TF32 on matrix units where a card has them (dense, without sparsity), else the ordinary rate. `link` is the
raw rate of one direction of the PCI Express link: 128b/130b lanes of 8, 16 or 32 GT/s, sixteen of them (PCI Express
Base Specification 3.0, 4.0, 5.0). Rates are per second, in flop and bytes.
"""

from dataclasses import dataclass

TERA, GIGA, GIB = 10**12, 10**9, 1 << 30

PCIE3 = 15_754 * 10**6
PCIE4 = 31_508 * 10**6
PCIE5 = 63_015 * 10**6


@dataclass(frozen=True)
class Sustained:
    """What of a card's figures its layers and copies reach, and what they cost beside.

    Shares of the peak rate of matrix units (other arithmetic has that of memory), of memory bandwidth and of the link's
    raw rate; ns that a kernel within a replayed CUDA graph, a copy and a segment take to start; slow-downs while copies
    run, in parts per million.
    """

    matrix: float
    memory: float
    link: float
    kernel_ns: int
    copy_ns: int
    boundary_ns: int
    compute_one_copy_ppm: int = 0
    compute_two_copies_ppm: int = 0
    copy_duplex_ppm: int = 0
    copy_compute_ppm: int = 0
    peer: float = 0.66
    exchange_ns: int = 20_000
    compute_exchange_ppm: int = 130_000
    """Of exchanges between cards: two H200 of one host reach 298 of 450 GB/s in sums of 256 MiB, and a product beside them
    takes 11 to 15 % longer."""


MEASURED = Sustained(0.475, 0.65, 0.87, 2_500, 2_000, 10_000, 40_000, 80_000, 130_000, 60_000)
"""Kernels and shares fit best what was measured of ResNet-50, ResNet-152 and GPT-2 with fused operators on an H100, layer
by layer and in all (benchmarks/gpu/results); the link's is that of large page-locked copies there, 54.7 of 63.0 GB/s;
slow-downs are medians of four tables."""

ROOFLINE = Sustained(1.0, 1.0, 1.0, 2_000, 0, 0)
"""The figures as they stand: nothing gets in the way of anything."""


@dataclass(frozen=True)
class Card:
    """One card: rates, memory, and where the figures are published."""

    title: str
    flops: float
    matrix_flops: float
    bandwidth: float
    memory_bytes: int
    link: int
    source: str
    sustained: Sustained = MEASURED
    peer: int = 0
    """Raw rate of one direction between two cards of a host."""

    @property
    def channels_last(self) -> bool:
        """Whether convolutions run on matrix units, which want channels last."""
        return self.matrix_flops > self.flops


def _card(
    title: str, flops: float, matrix: float, bandwidth: float, memory: int, link: int, source: str,
    sustained: Sustained = MEASURED, peer: int = 0,
) -> Card:  # fmt: skip
    """Figures in the units of the sources: Tflop/s, GB/s, GiB. Cards without links of their own meet over the host's."""
    rates = flops * TERA, matrix * TERA, bandwidth * GIGA
    return Card(title, *rates, memory * GIB, link, source, sustained, peer * GIGA or link)


CARDS = {
    "k40c": _card(
        "Tesla K40c", 4.29, 4.29, 288, 12, PCIE3,
        "NVIDIA Tesla K40 GPU Active Accelerator, board specification: 4.29 Tflop/s float32 at the base "
        "clock, 288 GB/s, 12 GB GDDR5, PCIe 3.0 x16",
    ),
    "titan-x-maxwell": _card(
        "GeForce GTX TITAN X (Maxwell)", 6.14, 6.14, 336.5, 12, PCIE3,
        "NVIDIA GeForce GTX TITAN X specification page: 3072 cores at 1000 MHz base (2 flop a clock), 336.5 GB/s, 12 GB "
        "GDDR5, PCIe 3.0 x16",
    ),
    "p100": _card(
        "Tesla P100 PCIe 16 GB", 9.3, 9.3, 732, 16, PCIE3,
        "NVIDIA Tesla P100 for PCIe data sheet: 9.3 Tflop/s float32, 732 GB/s, 16 GB HBM2, PCIe 3.0 x16",
    ),
    "v100": _card(
        "Tesla V100 PCIe 16 GB", 14.0, 14.0, 900, 16, PCIE3,
        "NVIDIA Tesla V100 data sheet, PCIe: 14 Tflop/s float32, 900 GB/s, 16 GB HBM2, PCIe 3.0 x16; its matrix units "
        "take float16 only",
    ),
    "t4": _card(
        "Tesla T4", 8.1, 8.1, 300, 16, PCIE3,
        "NVIDIA T4 data sheet: 8.1 Tflop/s float32, 300 GB/s, 16 GB GDDR6, PCIe 3.0 x16; its matrix units take float16 "
        "and integers only",
    ),
    "a100-40": _card(
        "A100 SXM 40 GB", 19.5, 156, 1555, 40, PCIE4,
        "NVIDIA A100 data sheet, 40 GB SXM: 19.5 Tflop/s float32, 156 Tflop/s TF32, 1,555 GB/s, PCIe 4.0 x16, "
        "NVLink 600 GB/s",
        peer=300,
    ),
    "a100-80": _card(
        "A100 SXM 80 GB", 19.5, 156, 2039, 80, PCIE4,
        "NVIDIA A100 data sheet, 80 GB SXM: 19.5 Tflop/s float32, 156 Tflop/s TF32, 2,039 GB/s, PCIe 4.0 x16, "
        "NVLink 600 GB/s",
        peer=300,
    ),
    "rtx-3060-12": _card(
        "GeForce RTX 3060 12 GB", 12.74, 12.74, 360, 12, PCIE4,
        "NVIDIA GeForce RTX 3060 specification: 3584 cores at 1.78 GHz boost (2 flop a clock), 192-bit GDDR6 at 15 Gbit/s, "
        "12 GB, PCIe 4.0 x16; TF32 runs at the float32 rate (NVIDIA Ampere GA102 white paper, dense)",
    ),
    "rtx-4090": _card(
        "GeForce RTX 4090", 82.6, 82.6, 1008, 24, PCIE4,
        "NVIDIA Ada GPU architecture white paper: 82.6 Tflop/s float32, 82.6 Tflop/s TF32 dense, 1,008 GB/s, 24 GB GDDR6X, "
        "PCIe 4.0 x16",
    ),
    "l4": _card(
        "L4", 30.3, 60, 300, 24, PCIE4,
        "NVIDIA L4 data sheet: 30.3 Tflop/s float32, 120 Tflop/s TF32 with sparsity (half of it dense), 300 GB/s, 24 GB "
        "GDDR6, PCIe 4.0 x16",
    ),
    "h100": _card(
        "H100 SXM 80 GB", 67, 494.5, 3350, 80, PCIE5,
        "NVIDIA H100 data sheet, SXM: 67 Tflop/s float32, 989 Tflop/s TF32 with sparsity (half of it dense), 3.35 TB/s, "
        "80 GB HBM3, PCIe 5.0 x16, NVLink 900 GB/s. "
        "Measured: 55.0 GB/s out and 54.8 in for copies of 64 MiB (docs/gpu.md)",
        peer=450,
    ),
    "h200": _card(
        "H200 SXM 141 GB", 67, 494.5, 4800, 141, PCIE5,
        "NVIDIA H200 data sheet, SXM: 67 Tflop/s float32, 989 Tflop/s TF32 with sparsity (half of it dense), 4.8 TB/s, "
        "141 GB HBM3e, PCIe 5.0 x16, NVLink 900 GB/s. "
        "Measured: 55.3 GB/s out and 55.4 in for copies of 64 MiB (docs/gpu.md)",
        peer=450,
    ),
    "roofline-2017": _card(
        "2017 GPU 12 GB (roofline)", 2.58, 2.58, 240, 12, 12 * GIGA,
        "planning assumption of docs/solver.md: 60 % of a K40c's 4.3 Tflop/s, 240 GB/s, 12 GB/s each way, no contention",
        ROOFLINE,
    ),
    "roofline-h100": _card(
        "H100 80 GB (roofline)", 60, 60, 3000, 80, 50 * GIGA,
        "planning assumption of docs/solver.md: 60 Tflop/s, 3 TB/s and 50 GB/s each way sustained, no contention",
        ROOFLINE,
    ),
}  # fmt: skip
