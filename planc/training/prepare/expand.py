"""Replaces calls of functions by their bodies: model-local functions, and standard operators planc has no rule for."""

from collections.abc import Collection, Iterator, Mapping

import onnx
from onnx import inliner, numpy_helper

from planc.errors import ModelError
from planc.graph.functions import function_body, instantiated
from planc.graph.nodes import replace_nodes
from planc.graph.wellformed import MOST_NODES
from planc.training.emit.builder import FLOATS, Array, Var
from planc.training.prepare.bodies import BODIES
from planc.training.prepare.bodies.body import call_of, made_body

_DEEPEST = 100
"""Functions inside functions."""


def inline_local_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every call of a function it defines itself replaced by the body.

    Raises ModelError for functions that call themselves, and where the bodies would be too many nodes.
    """
    if not model.functions:
        return model
    size = _Expansion(model).size()
    if size > MOST_NODES:
        raise ModelError(f"the model's functions unfold to {size} nodes, more than the {MOST_NODES} that planc plans")
    return inliner.inline_local_functions(model)


class _Expansion:
    """Counts the nodes of a model whose functions are all replaced by their bodies, before any is."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.bodies = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.sizes: dict[tuple[str, str, str], int] = {}
        self.open: set[tuple[str, str, str]] = set()

    def size(self) -> int:
        return sum(map(self._of, self.model.graph.node))

    def _of(self, node: onnx.NodeProto) -> int:
        key = (node.domain, node.op_type, node.overload)
        if key not in self.bodies:
            return 1
        if key in self.open or len(self.open) > _DEEPEST:
            raise ModelError(f"function {node.op_type!r} calls itself, or is nested too deeply")
        if key not in self.sizes:
            self.open.add(key)
            self.sizes[key] = sum(map(self._of, self.bodies[key].node))
            self.open.remove(key)
        return self.sizes[key]


def expand_operators(model: onnx.ModelProto, ruled: Collection[str], values: Mapping[str, Var]) -> bool:
    """Replace, in place, each operator that is not in `ruled`, yields floats and has an ONNX function body.

    Returns whether anything was replaced; the new nodes' shapes must then be inferred. Nodes of a body belong to the
    layer of the node they replace. Raises ModelError for an operator that the model's opset lacks.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    version, nodes, changed = versions.get("", versions.get("ai.onnx", 0)), [], False
    constants = _Constants({t.name: t for t in model.graph.initializer})
    for serial, node in enumerate(model.graph.node):
        expanded = _is_expanded(node, ruled) and _yields_floats(node, values)
        body = _body(node, version, values, constants) if expanded else None
        if body is None:
            nodes.append(node)
            continue
        changed = True
        nodes += instantiated(node, body, version, f"{node.name or node.op_type}.{serial}")
    replace_nodes(model.graph, nodes)
    return changed


class _Constants(Mapping[str, Array]):
    """The values of initializers, read where they are asked for."""

    def __init__(self, tensors: Mapping[str, onnx.TensorProto]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Array:
        return numpy_helper.to_array(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _is_expanded(node: onnx.NodeProto, ruled: Collection[str]) -> bool:
    """Whether an operator is replaced by a body: one without rule, or a ScatterND that combines, for order's sake."""
    combines = any(a.name == "reduction" and a.s not in (b"", b"none") for a in node.attribute)
    return node.op_type not in ruled or (node.op_type == "ScatterND" and combines)


def _yields_floats(node: onnx.NodeProto, values: Mapping[str, Var]) -> bool:
    """Whether some input and some output (as far as it is known) are floats."""
    floats = [[values[n].dtype in FLOATS for n in names if n in values] for names in (node.input, node.output)]
    return any(floats[0]) and (any(floats[1]) or not floats[1])


def _body(
    node: onnx.NodeProto, version: int, values: Mapping[str, Var], constants: Mapping[str, Array]
) -> onnx.FunctionProto | None:
    """The function body of `node`'s operator: planc's own, or ONNX's."""
    call = call_of(node, values, constants, version) if node.op_type in BODIES else None
    if call is not None:
        return made_body(node, call)
    return function_body(node, version, {name: (v.dtype, v.shape) for name, v in values.items() if name in node.input})
