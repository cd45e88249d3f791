"""Sliding windows of convolutions and pools: kernel, strides, dilations and resolved padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planc.training.registry import ForwardNode


@dataclass(frozen=True)
class Window:
    """One sliding window; `before` and `after` are the padding at the two ends of each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    def attributes(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": [*self.before, *self.after],
        }

    def extent(self, axis: int) -> int:
        """Input positions that one window spans along spatial `axis`."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def output_padding(self, size: Sequence[int], out: Sequence[int]) -> list[int]:
        """Rows at the input's end that no window reaches: what ConvTranspose must add to give `size` back."""
        return [
            size[i] - ((out[i] - 1) * self.strides[i] - self.before[i] - self.after[i] + self.extent(i))
            for i in range(len(self.kernel))
        ]


def window_of(
    node: ForwardNode,
    kernel: Sequence[int],
    size: Sequence[int],
    transposed_input: Sequence[int] | None = None,
) -> Window:
    """The window of a Conv or pool over spatial `size`.

    For a ConvTranspose `size` is its output and `transposed_input` its input; its `auto_pad` then makes the output
    the input times the stride, as the operator defines.
    """
    dims = len(kernel)
    strides = tuple(node.attribute("strides", [1] * dims))
    dilations = tuple(node.attribute("dilations", [1] * dims))
    pads = list(node.attribute("pads", [0] * 2 * dims))
    mode = node.attribute("auto_pad", "NOTSET")
    explicit_output = transposed_input is not None and node.attribute("output_shape", None) is not None
    if mode in ("SAME_UPPER", "SAME_LOWER") or explicit_output:
        extra = node.attribute("output_padding", [0] * dims)
        for i in range(dims):
            extent = dilations[i] * (kernel[i] - 1) + 1
            out = -(-size[i] // strides[i]) if transposed_input is None else transposed_input[i]
            total = max(0, (out - 1) * strides[i] + extent + (extra[i] if transposed_input else 0) - size[i])
            small, large = total // 2, total - total // 2
            lower = mode == "SAME_LOWER" or (transposed_input is not None and mode != "SAME_UPPER")
            pads[i], pads[dims + i] = (large, small) if lower else (small, large)
    return Window(tuple(kernel), strides, dilations, tuple(pads[:dims]), tuple(pads[dims:]))
