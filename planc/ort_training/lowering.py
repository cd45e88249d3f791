"""Lowers the operators of ONNX Runtime's training artifacts, standard and com.microsoft ones, each by a handler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from planc.errors import ModelError
from planc.graph.annotations import IR_VERSION
from planc.ort_training.lazy import LazyViews, Permuted
from planc.registry import Registry
from planc.training.apply import Update, emit_forward, forward_node
from planc.training.emit.builder import Array, Var
from planc.training.emit.forms import CPU, OperatorForms
from planc.training.emit.opset import OPSET
from planc.training.registry import ForwardNode, attributes_of
from planc.training.rules import FORWARD_RULES

FOLDED_BYTES = 1 << 20
"""Results of constants larger than this stay computed."""

RANDOM = frozenset({"Dropout", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})

Tensor = Var | Permuted
Results = Sequence[Tensor | None]


@dataclass(frozen=True)
class Call:
    """One node of the artifact with its attributes as Python values."""

    proto: onnx.NodeProto

    @property
    def op_type(self) -> str:
        return self.proto.op_type

    @property
    def where(self) -> str:
        """How to name the node to a user."""
        return f"node {self.proto.name!r} ({self.proto.domain or 'ai.onnx'}::{self.op_type})"

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return attributes_of(self.proto)

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def has(self, position: int) -> bool:
        """Whether the optional input at `position` is given."""
        return position < len(self.proto.input) and bool(self.proto.input[position])

    def name(self, position: int) -> str:
        """The name of a required input. Raises ModelError when it is left out."""
        if not self.has(position):
            raise ModelError(f"{self.where}: input {position} is required")
        return str(self.proto.input[position])

    def makes(self, position: int) -> bool:
        """Whether the output at `position` is wanted."""
        return position < len(self.proto.output) and bool(self.proto.output[position])


Handler = Callable[["ArtifactLowering", Call], Results]

HANDLERS: Registry[str, Handler] = Registry("the handler of")


def lowers(*op_types: str) -> Callable[[Handler], Handler]:
    """Register the handler of operators by type; it returns a tensor, or None, per output."""

    def register(handler: Handler) -> Handler:
        HANDLERS.add(op_types, handler)
        return handler

    return register


@dataclass
class ArtifactLowering(LazyViews):
    """The state of one lowering: what each tensor of the artifact became."""

    table: OperatorForms = CPU
    known: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    forward: dict[str, ForwardNode] = field(default_factory=dict)
    """The lowered forward node by the name of each of its outputs, and by its own."""
    updates: list[Update] = field(default_factory=list)
    index_sizes: dict[str, int] = field(default_factory=dict)

    def run(self, node: onnx.NodeProto) -> None:
        """Lower one node. Raises ModelError naming it where there is no way to."""
        call = Call(node)
        if self._folded(call):
            return
        handler = HANDLERS.get(node.op_type)
        if handler is not None:
            results = handler(self, call)
        elif node.domain in ("", "ai.onnx"):
            results = self._standard(call)
        else:
            raise ModelError(f"{call.where}: planc has no lowering for this operator")
        for name, result in zip(node.output, results, strict=False):
            if name and result is not None:
                self.known[name] = result

    # --- tensors

    def tensor(self, name: str) -> Tensor:
        """A tensor of the artifact by name, constants included."""
        if name in self.constants:
            return self.b.constant(self.constants[name])
        if name not in self.known:
            raise ModelError(f"tensor {name!r} is read before it is made, or planc's lowering does not make it")
        return self.known[name]

    def value(self, call: Call, position: int) -> Var:
        """An input with its elements in order."""
        return self.ordered(self.tensor(call.name(position)))

    def optional(self, call: Call, position: int) -> Var | None:
        return self.value(call, position) if call.has(position) else None

    def constant(self, call: Call, position: int) -> Array:
        """An input's value. Raises ModelError when it is computed from data."""
        name = call.name(position)
        if name not in self.constants:
            raise ModelError(f"{call.where}: input {position} ({name!r}) must not depend on data")
        return self.constants[name]

    def view(self, a: Tensor, shape: Sequence[int]) -> Var:
        """`a` under another shape, its elements in order."""
        return self.ordered(self.viewed(a, shape))

    # --- operators

    def emit(
        self, call: Call, op_type: str, inputs: Sequence[Var | None], shapes: Sequence[tuple[int, ...]],
        names: Sequence[str] = (), **attributes: Any,
    ) -> ForwardNode:  # fmt: skip
        """Emit a forward operator as the library lowers it, and remember it for its gradient.

        Outputs are called as in the artifact unless `names` are given.
        """
        first = next(v for v in inputs if v is not None)
        wanted = zip(names or call.proto.output, shapes, strict=False)
        outputs = [Var(self._fresh(name), s, first.dtype) for name, s in wanted]
        made = forward_node(self.b, self.table, op_type, inputs, outputs, name=call.proto.name, **attributes)
        node, update = emit_forward(self.b, made)
        self.updates += [update] if update else []
        for name in (call.proto.name, *call.proto.output):
            self.forward[name] = node
        return node

    def _fresh(self, name: str) -> str:
        """`name` of the artifact, unless a tensor of the step has it already."""
        return name if name and name not in self.b.values else f"{name}.{len(self.b.values)}"

    def forward_of(self, call: Call, name: str) -> ForwardNode:
        """The forward operator that made tensor `name`."""
        if name not in self.forward:
            raise ModelError(f"{call.where}: the forward operator that made {name!r} is not in the model")
        return self.forward[name]

    def _standard(self, call: Call) -> Results:
        """A standard operator: through the library's lowering where it has one, else as it stands."""
        node = self._at_target(call)
        shapes = self.inferred(call, node)
        inputs = [self.ordered(self.tensor(name)) if name else None for name in node.input]
        attributes = attributes_of(node)
        if node.op_type in FORWARD_RULES:
            plain = [shape for shape, _ in shapes]
            outputs = self.emit(call, node.op_type, inputs, plain, **attributes).outputs
            return [self.b.values.get(v.name) if v else None for v in outputs]
        wanted = [spec if name else None for name, spec in zip(node.output, shapes, strict=True)]
        made = iter(self.b.emit(node.op_type, inputs, wanted, **attributes))
        return [next(made) if spec else None for spec in wanted]

    def _at_target(self, call: Call) -> onnx.NodeProto:
        """The node as opset 18 writes it: axes as an input, the number of parts of a Split."""
        node = onnx.NodeProto()
        node.CopyFrom(call.proto)
        attributes = call.attributes
        if node.op_type.startswith("Reduce") and "axes" in attributes and len(node.input) == 1:
            name = f"{node.name}.axes"
            self.constants[name] = np.array(attributes["axes"], np.int64)
            node.input.append(name)
            _drop_attribute(node, "axes")
        if node.op_type == "Split" and len(node.input) == 1 and "num_outputs" not in attributes:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        return node

    def inferred(self, call: Call, node: onnx.NodeProto | None = None) -> list[tuple[tuple[int, ...], int]]:
        """(shape, dtype) of every output, by ONNX's own inference. Raises ModelError where it finds none."""
        node = node or self._at_target(call)
        types, data = {}, {}
        for name in node.input:
            if not name:
                continue
            tensor = self.tensor(name)
            dtype = (tensor.source if isinstance(tensor, Permuted) else tensor).dtype
            types[name] = helper.make_tensor_type_proto(dtype, tensor.shape)
            if name in self.constants:
                data[name] = numpy_helper.from_array(self.constants[name], name)
        try:
            schema = defs.get_schema(node.op_type, OPSET, "")
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
            )
        except (defs.SchemaError, shape_inference.InferenceError, RuntimeError) as error:
            raise ModelError(f"{call.where}: {str(error).splitlines()[0]}") from error
        return [_spec(found.get(name), name, call) for name in node.output]

    # --- constants

    def _folded(self, call: Call) -> bool:
        """Evaluate `call` now if it depends on shapes or constants alone."""
        node = call.proto
        if node.op_type in ("Shape", "Size"):
            shape = np.array(self.tensor(call.name(0)).shape, np.int64)
            taken = shape[slice(call.attribute("start", 0), call.attribute("end", None))]
            self.constants[node.output[0]] = taken if node.op_type == "Shape" else np.array(shape.prod(), np.int64)
            return True
        listed = [name for name in node.input if name]
        if node.domain or node.op_type in RANDOM or any(name not in self.constants for name in listed):
            return False
        node = self._at_target(call)
        graph = helper.make_graph(
            [node], "fold", [], [onnx.ValueInfoProto(name=o) for o in node.output if o],
            [numpy_helper.from_array(self.constants[name], name) for name in dict.fromkeys(node.input) if name],
        )  # fmt: skip
        opset = [helper.make_opsetid("", OPSET)]
        results: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opset)).run(None, {})
        arrays = [np.asarray(r) for r in results]
        if sum(a.nbytes for a in arrays) > FOLDED_BYTES:
            return False
        self.constants.update(zip((o for o in node.output if o), arrays, strict=True))
        return True


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _spec(inferred: TypeProto | None, name: str, call: Call) -> tuple[tuple[int, ...], int]:
    if not name:
        return (), 0
    dims = inferred.tensor_type.shape.dim if inferred is not None and inferred.tensor_type.HasField("shape") else None
    if inferred is None or dims is None or not all(d.HasField("dim_value") for d in dims):
        raise ModelError(f"{call.where}: the shape of its output {name!r} is not static; bind dimensions with --dim")
    return tuple(d.dim_value for d in dims), inferred.tensor_type.elem_type
