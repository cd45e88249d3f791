"""What happens to scores between their product and the softmax of a written-out attention, and the bias that says so."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import Node, Proxy
from torch.fx.experimental.proxy_tensor import get_proxy_mode, track_tensor_tree
from torch.fx.node import map_arg
from torch.utils._python_dispatch import _disable_current_modes

from planc.errors import InternalError
from planc.kernels.attention import HIDDEN

aten = torch.ops.aten
_RANDOM = torch.Tag.nondeterministic_seeded
_LARGEST = 1 << 26
"""Elements of constants that are looked into."""

_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default, aten.clone.default, aten.alias.default})
_MOVES = _VIEWS | {
    aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.slice.Tensor, aten.permute.default,
    aten.transpose.int, aten._to_copy.default, aten.detach.default, aten.select.int,
}  # fmt: skip
_ZEROS = (aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default)
_FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)


@dataclass(frozen=True)
class Step:
    """One change of scores of a `shape`: "times" a number, "add" a mask `number` times, or "fill" with it where the mask
    is `where`."""

    kind: str
    number: float
    shape: tuple[int, ...]
    mask: Node | None = None
    where: bool = True


def value_of(node: Any) -> torch.Tensor:
    """A fake tensor of the shape and type that a node makes."""
    value: torch.Tensor = node.meta["val"]
    return value


def passed(node: Node) -> Node | None:
    """What a view, a copy or a conversion between float types reads; None for other nodes."""
    if node.target not in _VIEWS and node.target is not aten._to_copy.default:
        return None
    inner = node.args[0]
    floats = isinstance(inner, Node) and value_of(inner).is_floating_point() and value_of(node).is_floating_point()
    return inner if isinstance(inner, Node) and floats else None


def changed(node: Node, is_scores: Callable[[Any], bool]) -> tuple[Node | None, Step | None]:
    """The scores that a node changes and how; of two operands of an addition `is_scores` knows which."""
    target, args = node.target, node.args
    inner, step = None, None
    if target in (aten.mul.Tensor, aten.div.Tensor):
        number = number_of(args[1])
        if number is None and target is aten.mul.Tensor:
            args, number = (args[1], args[0]), number_of(args[0])
        if number is not None and 0 < number < math.inf:
            inner, step = args[0], Step("times", number if target is aten.mul.Tensor else 1 / number, _shape(node))
    elif target in (aten.add.Tensor, aten.sub.Tensor) and not node.kwargs:
        if target is aten.add.Tensor and not is_scores(args[0]):
            args = (args[1], args[0])
        if isinstance(args[1], Node):
            inner, step = args[0], Step("add", 1.0 if target is aten.add.Tensor else -1.0, _shape(node), args[1])
    elif target in (*_FILLS, aten.where.self):
        inner, step = _filled(node)
    return (inner, step) if isinstance(inner, Node) else (None, None)


def _filled(node: Node) -> tuple[Any, Step | None]:
    """Scores that masked_fill or where fills with a number."""
    args, where = node.args, node.target is aten.where.self
    mask, options = (args[0], ((args[2], args[1], False), (args[1], args[2], True))) if where else (
        args[1], ((args[2], args[0], True),)
    )  # fmt: skip
    for filling, scores, when in options:
        number = number_of(filling)
        if number is not None and isinstance(mask, Node):
            return scores, Step("fill", number, _shape(node), mask, when)
    return None, None


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(value_of(node).shape)


# --- what is known while a step is traced


def number_of(given: Any) -> float | None:
    """The number that an argument is, or that a node without axes makes of numbers alone."""
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    if not isinstance(given, Node) or value_of(given).dim():
        return None
    made = constant_of(given, {})
    return None if made is None else float(made)


def constant_of(node: Node, held: Mapping[Node, torch.Tensor]) -> torch.Tensor | None:
    """The value of a node that reads nothing but what is `held` and tensors that the code has; None where it reads more."""
    mode = get_proxy_mode()
    if mode is None:
        return None
    with _disable_current_modes(), torch.no_grad():
        return _computed(node, mode.tracer.root, held)


def _computed(node: Node, root: Any, held: Mapping[Node, torch.Tensor]) -> torch.Tensor | None:
    if node in held:
        return held[node]
    if node.op == "get_attr":
        found = getattr(root, str(node.target), None)
        return found.detach() if isinstance(found, torch.Tensor) else None
    target = node.target
    if not isinstance(target, OpOverload) or value_of(node).numel() > _LARGEST or _RANDOM in target.tags:
        return None
    known = {inner: _computed(inner, root, held) for inner in node.all_input_nodes}
    if any(made is None for made in known.values()):
        return None
    args, named = map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    made = target(*args, **{k: torch.device("cpu") if k == "device" else v for k, v in named.items()})
    return made if isinstance(made, torch.Tensor) else None


def hidden_by(mask: Node) -> float | None:
    """The number by which an addition of a mask hides keys, 0 where it hides none, if the mask is made of that number and
    of small ones; else None."""
    while mask.target in _MOVES and isinstance(mask.args[0], Node):
        mask = mask.args[0]
    if mask.target in _FILLS:
        numbers = {number_of(mask.args[2])} if _is_small(mask.args[0]) else {None}
    elif mask.target is aten.mul.Tensor:
        ones, number = sorted(mask.args, key=lambda a: number_of(a) is not None)
        numbers = {number_of(number)} if _is_zero_or_one(ones) else {None}
    else:
        numbers = {number_of(a) for a in mask.args[1:]} if mask.target is aten.where.self else {None}
    hiding = {n for n in numbers if n is None or not n > HIDDEN} or {0.0}
    return hiding.pop() if len(hiding) == 1 else None


def only_hides(mask: Node) -> bool:
    """Whether a mask is whole numbers times one that hides keys: half precision changes nothing of that."""
    while mask.target in _MOVES and isinstance(mask.args[0], Node):
        mask = mask.args[0]
    if mask.target is not aten.mul.Tensor:
        return False
    known = [(number_of(a), b) for a, b in (mask.args, mask.args[::-1])]
    return any(n is not None and n <= HIDDEN and _is_whole(other) for n, other in known)


def _is_whole(given: Any) -> bool:
    """Whether an argument is made of booleans or integers in ways that leave them whole."""
    number = number_of(given)
    if number is not None or not isinstance(given, Node):
        return number is not None and number.is_integer()
    if not value_of(given).is_floating_point() or given.target in _ZEROS:
        return True
    parts = given.args[:1] if given.target in _MOVES else given.args[:2]
    return given.target in (*_MOVES, aten.sub.Tensor, aten.rsub.Scalar, aten.neg.default) and all(map(_is_whole, parts))


def _is_zero_or_one(given: Any) -> bool:
    """Whether a node makes numbers of truths, or one less them."""
    if not isinstance(given, Node) or given.op != "call_function":
        return False
    target, args = given.target, given.args
    if target is aten.rsub.Scalar or target is aten.sub.Tensor:
        one, rest = (args[1], args[0]) if target is aten.rsub.Scalar else (args[0], args[1])
        return not given.kwargs and number_of(one) == 1 and _is_zero_or_one(rest)
    if target not in _MOVES or not isinstance(args[0], Node):
        return False
    return value_of(args[0]).dtype == torch.bool or _is_zero_or_one(args[0])


def _is_small(given: Any) -> bool:
    """Whether a node makes numbers that hide nothing."""
    if not isinstance(given, Node) or given.target in _ZEROS:
        return isinstance(given, Node)
    made = constant_of(given, {})
    with _disable_current_modes():
        return made is not None and bool((made > HIDDEN).all())


# --- masks


def bias_of(
    steps: Sequence[Step], full: tuple[int, ...], read: Callable[[Node], torch.Tensor], dtype: torch.dtype
) -> torch.Tensor | None:
    """What the steps add to scores [B, H, S, T], minus infinity where they fill; None where they only scale. Masks are
    `read` as they are met."""
    bias: torch.Tensor | None = None
    for step in steps:
        mask = None if step.mask is None else _over(read(step.mask), step.shape, full)
        if mask is None:
            bias = None if bias is None else bias * step.number
        elif step.kind == "add":
            mask = mask if step.number == 1 else mask * step.number
            bias = mask if bias is None else bias + mask
        else:
            kept = torch.zeros((), dtype=dtype) if bias is None else bias
            hidden, value = mask.to(torch.bool), torch.full((), -math.inf, dtype=kept.dtype)
            bias = torch.where(hidden, value, kept) if step.where else torch.where(hidden, kept, value)
    if bias is None:
        return None
    while bias.dim() < 2:
        bias = bias.unsqueeze(0)
    return bias


def constant_bias(
    steps: Sequence[Step], full: tuple[int, ...], held: Mapping[Node, torch.Tensor]
) -> torch.Tensor | None:
    """The same where all masks are known."""
    known = dict[Node, torch.Tensor]()
    for mask in (step.mask for step in steps if step.mask is not None):
        made = constant_of(mask, held)
        if made is None:
            return None
        known[mask] = made
    with _disable_current_modes(), torch.no_grad():
        return bias_of(steps, full, known.__getitem__, torch.float32)


def hides_some_query(bias: torch.Tensor) -> bool:
    """Whether a known bias leaves some query without any key, or is not a number."""
    with _disable_current_modes():
        return not bool((bias > HIDDEN).any(-1).all()) or bool(bias.isnan().any())


def empty_rows(bias: torch.Tensor) -> torch.Tensor:
    """[..., S or 1, 1]: the queries that see no key."""
    return (bias == -math.inf).all(-1, keepdim=True)


def _over(mask: torch.Tensor, shape: tuple[int, ...], full: tuple[int, ...]) -> torch.Tensor:
    """A mask that broadcasts to scores [B H, S, T] or [B, H, S, T], over the latter."""
    if len(shape) == len(full) or mask.dim() < 3:
        return mask
    lead = full[:2] if mask.shape[0] == shape[0] else (1, 1)
    return mask.reshape(*lead, *mask.shape[1:])


def tensor_of(node: Node) -> torch.Tensor:
    """A tensor that stands for a node in what is traced from here on."""
    mode, value = get_proxy_mode(), value_of(node)
    if mode is None:
        raise InternalError("a mask is read outside of a trace")
    with _disable_current_modes(), value.fake_mode:
        fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    track_tensor_tree(fake, Proxy(node, mode.tracer), constant=None, tracer=mode.tracer)
    made: torch.Tensor = FunctionalTensor.to_functional(fake)
    return made
