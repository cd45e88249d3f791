"""The function that a fused operator computes, written node by node: float32 between its inputs and its outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from planc.graph.fused import HALVES


@dataclass
class Body:
    """Nodes of a function under construction. Tensors of the graph go by their index; `local` holds the name of each
    one's value in the function, `bools` those that are no numbers."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    local: dict[int, str] = field(default_factory=dict)
    bools: set[int] = field(default_factory=set)
    _made: int = 0

    def read(self, tensor: int, name: str, dtype: str) -> None:
        """Input `name`, widened where it is of half precision."""
        self._know(tensor, dtype, self._cast(name, f"wide_{name}", TensorProto.FLOAT) if dtype in HALVES else name)

    def compute(self, op_type: str, attributes: Sequence[onnx.AttributeProto], inputs: Sequence[int], output: int,
                dtype: str) -> None:  # fmt: skip
        """One operator of the group, whose `output` has `dtype` in the graph.

        Results of arithmetic are not rounded to it; what the model itself casts is.
        """
        names = [self.local[i] for i in inputs]
        name = f"v{self._made}"
        self._made += 1
        if op_type == "Cast":
            self._know(output, dtype, self._converted(names[0], name, dtype, inputs[0] in self.bools))
            return
        self.nodes.append(onnx.NodeProto(op_type=op_type, input=names, output=[name]))
        self.nodes[-1].attribute.extend(attributes)
        self._know(output, dtype, name)

    def _converted(self, source: str, name: str, dtype: str, is_bool: bool) -> str:
        """A Cast of the model: to a half type it rounds, from one it changes nothing."""
        if is_bool:
            return self._cast(source, name, TensorProto.FLOAT)
        if dtype not in HALVES:
            return source
        return self._cast(self._cast(source, f"half_{name}", HALVES[dtype]), name, TensorProto.FLOAT)

    def written(self, tensors: Sequence[int], dtypes: Sequence[str]) -> list[str]:
        """The names of the outputs that hold `tensors`: rounded to their type, each made by a node of its own."""
        ends: list[str] = []
        for k, (tensor, dtype) in enumerate(zip(tensors, dtypes, strict=True)):
            name = self.local[tensor]
            if dtype in HALVES:
                name = self._cast(name, f"r{k}", HALVES[dtype])
            elif name in ends or not name.startswith("v"):
                self.nodes.append(onnx.NodeProto(op_type="Identity", input=[name], output=[f"r{k}"]))
                name = f"r{k}"
            ends.append(name)
        return ends

    def _know(self, tensor: int, dtype: str, name: str) -> None:
        self.local[tensor] = name
        if dtype == "bool":
            self.bools.add(tensor)

    def _cast(self, name: str, to: str, dtype: int) -> str:
        self.nodes.append(helper.make_node("Cast", [name], [to], to=dtype))
        return to
