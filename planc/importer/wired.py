"""A node with its tensors by index."""

from dataclasses import dataclass

import onnx


@dataclass(frozen=True, slots=True)
class Wired:
    """A node with the indices of the tensors that it reads and writes, -1 where an optional one is absent."""

    proto: onnx.NodeProto
    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
