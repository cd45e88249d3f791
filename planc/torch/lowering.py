"""Lowers the ATen operators of a traced step to ONNX, each by a registered handler."""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

import torch
from onnx import TensorProto

from planc.errors import InternalError, ModelError
from planc.ort_training.lazy import LazyViews, Permuted
from planc.registry import Registry
from planc.torch.pairs import is_complex, lowered
from planc.torch.refused import REFUSED
from planc.torch.tensors import (
    Constant,
    Deferred,
    Expanded,
    Picked,
    Recorded,
    Tensor,
    onnx_dtype,
    to_numpy,
)
from planc.training.apply import Update
from planc.training.emit.builder import HALVES, Operand, Shape, Var
from planc.training.emit.forms import CPU, OperatorForms
from planc.training.registry import ForwardNode

aten = torch.ops.aten

FOLDED_BYTES = 1 << 28
"""Results of constants larger than this stay computed."""

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Registered:
    """A handler and the arguments that it takes as they are, not materialised."""

    handler: Handler
    raw: frozenset[str]


HANDLERS: Registry[Any, Registered] = Registry("the handler of")


LIBRARY_HANDLERS: Registry[str, Registered] = Registry("the handler of")
"""By the names of operators that other libraries add to torch: they are there once such a library is imported."""


def lower_library(name: str) -> Callable[[H], H]:
    """Register the handler of an operator of another library, by its name with namespace."""

    def register(handler: H) -> H:
        LIBRARY_HANDLERS.add([name], Registered(handler, frozenset()))
        return handler

    return register


def lower(*targets: Any, raw: tuple[str, ...] = ()) -> Callable[[H], H]:
    """Register the handler of ATen operators: called with the context and the operator's arguments by name."""

    def register(handler: H) -> H:
        HANDLERS.add(targets, Registered(handler, frozenset(raw)))
        return handler

    return register


@dataclass
class TorchLowering(LazyViews):
    """The state of one lowering: what each traced node became, and what is still to be emitted."""

    table: OperatorForms = CPU
    known: dict[torch.fx.Node, Any] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    index_ranges: dict[str, int] = field(default_factory=dict)
    """Number of classes that each integer input names."""
    forward_of: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """(operator, input tensor, settings) -> forward node, for gradients that torch computes from its input."""
    node: Any = None
    """The call being lowered."""
    specs: list[tuple[Shape, int]] = field(default_factory=list)
    """(shape, dtype) of the results of the operator being lowered."""
    _promised: set[str] = field(default_factory=set)
    _made: dict[Deferred, Var] = field(default_factory=dict)

    # --- one operator

    def run(self, node: torch.fx.Node) -> None:
        """Lower one call. Raises ModelError for an operator without handler."""
        if node.target is operator.getitem:
            source, index = node.args
            self.known[node] = self.known[source][index]
            return
        given = _bound(node)
        if _is_empty(node):
            self.known[node] = _nothing(node)
            return
        if self._foldable(node):
            self.known[node] = self._folded(node)
            return
        if is_complex(node):
            self.known[node] = lowered(self, node, {k: self._argument(v, True) for k, v in given.items()}, HANDLERS)
            return
        registered = HANDLERS.get(node.target) or LIBRARY_HANDLERS.get(node.target._schema.name)
        if registered is None:
            reason = REFUSED.get(node.target, "express the module with other operators")
            raise ModelError(f"{self._named(node)} has no lowering to ONNX; {reason}")
        _require_alike(node)
        self.node = node
        self.specs = [(tuple(v.shape), self._dtype(node, v)) for v in _values(node) if isinstance(v, torch.Tensor)]
        ready = {name: self._argument(v, name in registered.raw) for name, v in given.items()}
        result = self._narrowed(node, self._handled(node, registered.handler, ready))
        self._check(node, result)
        self.known[node] = result

    def _named(self, node: torch.fx.Node) -> str:
        """An operator with its layer, phase and line of code."""
        layer, phase = self.b.group.layer, self.b.group.phase
        return f"torch operator {node.target} (layer {layer!r}, {phase}, {node.meta.get('source')})"

    def _handled(self, node: torch.fx.Node, handler: Handler, given: dict[str, Any]) -> Any:
        """What a handler makes; what it refuses is told with the operator's place."""
        try:
            return handler(self, **given)
        except ModelError as error:
            raise ModelError(f"{self._named(node)}: {error}") from error

    def _dtype(self, node: torch.fx.Node, value: torch.Tensor) -> int:
        """The element type of a result. Raises ModelError, naming the operator, for one that graphs do not have."""
        try:
            return onnx_dtype(value.dtype)
        except ModelError as error:
            raise ModelError(f"{self._named(node)}: {error}") from error

    def _argument(self, given: Any, raw: bool) -> Any:
        if isinstance(given, torch.fx.Node):
            if raw and given not in self.known:  # not read here: what comes of it may be, later
                return Deferred(tuple(_values(given)[0].shape), lambda: self.value(self.known[given]))
            known = self.known[given]
            return known if raw or not isinstance(known, get_args(Tensor)) else self.value(known)
        if isinstance(given, (list, tuple)):
            return [self._argument(item, raw) for item in given]
        return given

    def _narrowed(self, node: torch.fx.Node, result: Any) -> Any:
        """Results in the half type that torch gives them, where a rule of the library sums and returns float32."""
        if isinstance(result, tuple):
            pairs = zip(result, _values(node), strict=False)
            return (*(self._in_type(made, value) for made, value in pairs), *result[len(_values(node)) :])
        return self._in_type(result, _values(node)[0])

    def _in_type(self, made: Any, value: Any) -> Any:
        if not isinstance(made, Var) or not isinstance(value, torch.Tensor) or made.dtype != TensorProto.FLOAT:
            return made
        wanted = onnx_dtype(value.dtype)
        return self.b.cast(made, wanted) if wanted in HALVES else made

    def _check(self, node: torch.fx.Node, result: Any) -> None:
        """What a handler returns must be what torch says the operator returns."""
        for made, expected in zip(result if isinstance(result, tuple) else (result,), _values(node), strict=False):
            if isinstance(made, Var) and isinstance(expected, torch.Tensor):
                wanted = (tuple(expected.shape), onnx_dtype(expected.dtype))
                if (made.shape, made.dtype) != wanted:
                    raise InternalError(f"{node.target} was lowered to {made}, torch says {wanted}")

    # --- constants

    def _foldable(self, node: torch.fx.Node) -> bool:
        parts = [self.known.get(n) for n in node.all_input_nodes]
        if not all(isinstance(part, Constant) for part in parts):
            return False
        sizes = [v.numel() * v.element_size() for v in _values(node) if isinstance(v, torch.Tensor)]
        random = torch.Tag.nondeterministic_seeded in node.target.tags
        return bool(sizes) and not random and sum(sizes) <= FOLDED_BYTES

    def _folded(self, node: torch.fx.Node) -> Any:
        def real(item: Any) -> Any:
            if isinstance(item, torch.fx.Node):
                return self.known[item].tensor
            if isinstance(item, torch.device):
                return torch.device("cpu")
            return [real(part) for part in item] if isinstance(item, (list, tuple)) else item

        made = node.target(*real(node.args), **{k: real(v) for k, v in node.kwargs.items()})
        return tuple(Constant(t) for t in made) if isinstance(made, (tuple, list)) else Constant(made)

    def fresh(self, op_type: str) -> str:
        """A name for the output of an operator that a rule of the library will emit."""
        stem = f"{self.b.group.layer}.{op_type}"
        name, serial = stem, 2
        while name in self.b.values or name in self._promised:
            name, serial = f"{stem}.{serial}", serial + 1
        self._promised.add(name)
        return name

    def number(self, a: Any) -> float | int | bool | None:
        """The number that a plain number or a uniform constant stands for, None for anything else."""
        if isinstance(a, (int, float, bool)):
            return a
        if isinstance(a, Constant) and a.tensor.numel() == 1:
            number: float | int | bool = a.tensor.item()
            return number
        return self.b.known_scalar(a.value) if isinstance(a, Expanded) else None

    def uniform(self, number: float) -> Expanded:
        """The first result of this operator, all elements equal to `number`."""
        shape, dtype = self.specs[0]
        return Expanded(self.b.full((1,) * len(shape), number, dtype), shape)

    # --- tensors

    def value(self, a: Tensor) -> Var:
        """The tensor's elements in order, as an ONNX value."""
        if isinstance(a, Permuted):
            return self.ordered(a)
        if isinstance(a, Constant):
            return self.b.constant(to_numpy(a.tensor))
        if isinstance(a, Expanded):
            return self._expanded(a)
        if isinstance(a, Picked):
            return self._scattered(a)
        if isinstance(a, Deferred):
            if a not in self._made:
                self._made[a] = a.make()
            return self._made[a]
        return self._kept(a) if isinstance(a, Recorded) else a

    def _kept(self, a: Recorded) -> Var:
        """What a forward operator keeps, where it is read as the tensor that torch gives: a dropout's mask only."""
        mask = a.node.saved.get("mask")
        if a.node.op_type == "MaxPool":
            x, indices = a.node.input(0), self.b.cast(self._places(a.node), TensorProto.INT64)
            plane = self.b.scalar_for(math.prod(x.shape[2:]), indices)
            within = self.b.op("Mod", [indices, plane], indices.shape)
            return (
                within if a.shape is None else self.b.reshape(within, a.shape)
            )  # torch counts within a plane, ONNX from the first
        if mask is None:
            raise ModelError(f"{a.node.where}: a statistic or index that torch returns beside its result is read")
        return mask

    def _places(self, pool: ForwardNode) -> Var:
        """Where the maxima of a max-pool are, counted from the first element; a pool of planc's own keeps no such."""
        if "indices" in pool.saved:
            return pool.saved["indices"]
        shape, attributes = pool.output.shape, {k: v for k, v in pool.attributes.items() if k != "storage_order"}
        outputs = [(shape, pool.output.dtype), (shape, TensorProto.INT64)]
        return self.b.emit("MaxPool", [pool.input(0)], outputs, **attributes)[1]

    def _expanded(self, a: Expanded) -> Var:
        number = self.b.known_scalar(a.value)
        if number == 0.0 and a.shape:
            return self.b.zeros(a.shape, a.value.dtype) if a.value.dtype != TensorProto.BOOL else self._plain(a)
        return self.b.reshape(a.value, ()) if not a.shape else self._plain(a)

    def _plain(self, a: Expanded) -> Var:
        return self.b.expand(a.value, a.shape)

    def _scattered(self, a: Picked) -> Var:
        zeros = self.b.zeros(a.shape, a.log_probabilities.dtype)
        return self.b.op("ScatterElements", [zeros, a.index, a.share], a.shape, axis=1)

    def permute(self, a: Tensor, perm: list[int]) -> Tensor:
        """`a` with permuted axes, not yet materialised."""
        return self.permuted(a if isinstance(a, Permuted) else self.value(a), perm)

    def view(self, a: Tensor, shape: Sequence[int]) -> Var:
        """`a` under another shape, its elements in order."""
        return self.value(self.reshape(a, shape))

    def reshape(self, a: Tensor, shape: Sequence[int]) -> Tensor:
        """A view of `a`, not yet materialised where that can be avoided."""
        number = self.number(a)
        if isinstance(a, Expanded) and number is not None:
            return Expanded(self.b.full((1,) * len(shape), number, a.value.dtype), tuple(shape))
        return self.viewed(a if isinstance(a, Permuted) else self.value(a), shape)

    def factor(self, a: Tensor) -> tuple[Var, bool]:
        """A matrix operand and whether it is to be read transposed."""
        return self.matrix(a if isinstance(a, Permuted) else self.value(a))

    def operand(self, a: Tensor | float, like: Shape) -> Operand:
        """An operand that broadcasts against a tensor of shape `like`."""
        number = self.number(a)
        if number is not None and not isinstance(number, bool):
            return number
        if isinstance(a, Expanded) and len(a.shape) <= len(like):
            return a.value
        return self.value(self.tensor(a))

    @staticmethod
    def tensor(a: Tensor | float) -> Tensor:
        """Plain booleans as constants."""
        return a if isinstance(a, get_args(Tensor)) else Constant(torch.tensor(a))


_UNREAD = {
    aten._native_batch_norm_legit_functional.default: ("training", "running_mean", "running_var"),
    aten.native_batch_norm_backward.default: ("train", "running_mean", "running_var"),
}
"""Arguments that an operator does not read where its first named one is true: batch statistics take their place."""


_ALIKE = frozenset(
    {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default}
)
"""Operators that torch's kernels refuse for operands of different types, and its fake tensors do not."""


def _require_alike(node: torch.fx.Node) -> None:
    types = {str(v.dtype) for n in node.all_input_nodes if isinstance(v := n.meta.get("val"), torch.Tensor)}
    if node.target in _ALIKE and len(types) > 1:
        raise ModelError(
            f"torch operator {node.target} at {node.meta.get('source')} has operands of {' and '.join(sorted(types))}: "
            "convert the input to the module's type, or use autocast"
        )


def read_by(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes whose results the operator needs for its own."""
    if node.target not in _UNREAD:
        return list(node.all_input_nodes)
    flag, *names = _UNREAD[node.target]
    given = _bound(node)
    unread = {given[name] for name in names} if given[flag] else set()
    return [other for other in node.all_input_nodes if other not in unread]


def _is_empty(node: torch.fx.Node) -> bool:
    """Whether an operator makes tensors and none of them has an element: nothing is to be computed then."""
    made = [v for v in _values(node) if isinstance(v, torch.Tensor)]
    return bool(made) and not any(v.numel() for v in made)


def _nothing(node: torch.fx.Node) -> Any:
    found = [Constant(torch.empty(v.shape, dtype=v.dtype)) for v in _values(node)]
    return tuple(found) if isinstance(node.meta["val"], (tuple, list)) else found[0]


def _values(node: torch.fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _bound(node: torch.fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of its schema, defaults filled in."""
    arguments = node.target._schema.arguments
    positional = {a.name: v for a, v in zip(arguments, node.args, strict=False)}
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return {**defaults, **positional, **node.kwargs}


__all__ = ["HANDLERS", "Tensor", "TorchLowering", "aten", "lower", "lower_library"]
