"""Attention that a module writes out itself, as libraries of language models do: one operator in a traced step.

    matmul(softmax(matmul(Q, K') * scale [+ mask, or filled where a mask says so]), V)  ->  planc::attention(Q, K, V, bias)

It is looked for at the second product, in the graph that is traced so far: by whatever names the parts were called, the
nodes that lead back to the first product are the same. What was traced for scores and probabilities has no reader then,
and goes. Where it has one, since the module returns or keeps it, the step is traced once more and the site left as it is.

Left as they are written too: dropout of probabilities, masks that a parameter's gradient depends on, operands that the
kernels do not take, tensors in between with hooks, and masks with which the operator could compute something else for a
query that sees no key: finite fillings with any addition, or above -10,000, and in half precision additions that the step
computes for each query of anything but truths and one number.

A query that sees no key has the written form's result: not a number where keys are hidden by minus infinity, the mean of
all values, and no gradient for the query, where they are filled with something finite, and what `planc.torch.hidden_rows`
says where finite numbers are added.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch._C import DispatchKey
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.utils._python_dispatch import _disable_current_modes

from planc.kernels.attention import HIDDEN, LOWEST
from planc.torch.attention import Taken, attended, fits
from planc.torch.hidden_rows import attended_anyway
from planc.torch.written_masks import (
    Step,
    bias_of,
    changed,
    constant_bias,
    empty_rows,
    hidden_by,
    hides_some_query,
    only_hides,
    passed,
    tensor_of,
    value_of,
)

aten = torch.ops.aten

_LONGEST = 16
"""Nodes between the two products."""


@dataclass(frozen=True)
class _Product:
    """A matrix product that ran: operands and result with what autograd knows of them."""

    a: torch.Tensor
    b: torch.Tensor
    made: torch.Tensor


@dataclass(frozen=True)
class _Chain:
    """What lies between scores, as the first product makes them, and probabilities, from the scores on."""

    product: _Product
    nodes: tuple[Node, ...]
    steps: tuple[Step, ...]

    @property
    def scale(self) -> float:
        return math.prod(step.number for step in self.steps if step.kind == "times")

    @property
    def masks(self) -> list[Node]:
        return [step.mask for step in self.steps if step.mask is not None]

    @property
    def added(self) -> list[Node]:
        return [step.mask for step in self.steps if step.kind == "add" and step.mask is not None]

    @property
    def hides_by(self) -> float | None:
        """The one number by which some key's score falls, as the last change; None where the masks are others."""
        last = self.steps[-1] if len(self.masks) == 1 else None
        plain = last is not None and (last.kind, last.number) == ("add", 1.0)
        return hidden_by(self.masks[0]) if plain else None

    @property
    def fills(self) -> set[float]:
        """The numbers that scores are filled with."""
        return {step.number for step in self.steps if step.kind == "fill"}

    def shape(self) -> tuple[int, ...] | None:
        """[B, H, S, T], [N, 1, S, T] where there are three axes everywhere; None where they are regrouped in between."""
        shapes = [tuple(value_of(node).shape) for node in self.nodes]
        rows = (math.prod(shapes[0][:-2]), *shapes[0][-2:])
        full = next((shape for shape in shapes if len(shape) == 4), (rows[0], 1, *rows[1:]))
        return full if all(shape in (full, rows) for shape in shapes) and math.prod(full[:2]) == rows[0] else None


class WrittenAttention:
    """The sites of one trace that are `taken`, in order; those in `left` stay as they are written. Of its `inputs` some
    are `trained`, and others `held` by the module: only what such a mask shows to hide is taken from the value."""

    def __init__(
        self, taken: Taken, left: frozenset[int], trained: Collection[int], held: Mapping[int, torch.Tensor]
    ) -> None:
        self._taken, self._left, self._trained_inputs, self._held_inputs = taken, left, frozenset(trained), dict(held)
        self._products: dict[Node, _Product] = {}
        self._hooked: set[Node] = set()
        self._repeated: dict[Node, torch.Tensor] = {}
        self._sites: list[tuple[Node, ...]] = []

    def read_elsewhere(self, graph: torch.fx.Graph) -> frozenset[int]:
        """The sites whose scores or probabilities a graph without dead code still computes."""
        alive = set(graph.nodes)
        return frozenset(n for n, nodes in enumerate(self._sites) if n not in self._left and alive.intersection(nodes))

    def matmul(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The product, or the attention whose last part it is."""
        fitting = a.dim() == b.dim() and a.dim() in (3, 4) and a.shape[:-2] == b.shape[:-2]
        made = self._attention(a, b) if fitting else None
        if made is not None:
            return made
        made = aten.matmul.default._op_dk(DispatchKey.CompositeImplicitAutograd, a, b)
        node = node_of(made) if fitting else None
        if node is not None:
            self._products[node] = _Product(a, b, made)
        return made

    def hook(self, tensor: torch.Tensor) -> None:
        """Somebody waits for the gradient of this tensor."""
        node = node_of(tensor)
        if node is not None:
            self._hooked.add(node)

    def repeat(self, source: torch.Tensor, made: torch.Tensor) -> None:
        """Heads [B, G, T, D] are repeated, each by itself, in the order of `made`."""
        node = node_of(made)
        if node is not None:
            self._repeated[node] = source

    # --- finding

    def _attention(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor | None:
        node = node_of(weights)
        chain = None if node is None else self._chain(node)
        if chain is None or self._hooked.intersection(chain.nodes) or not _leads_to(weights, chain.product):
            return None
        operands = self._operands(chain, values)
        if operands is None or self._depend_on_trained(chain.masks):
            return None
        full = (*operands[0].shape[:3], operands[1].shape[2])
        known = constant_bias(chain.steps, full, self._held(weights)) if chain.masks else None
        hides = bool(chain.masks) and (known is None or hides_some_query(known))
        dtype = operands[0].dtype
        if not _expressible(chain, hides, dtype) or (chain.masks and not _survives(chain, known, dtype)):
            return None
        self._sites.append(chain.nodes)
        if len(self._sites) - 1 in self._left:
            return None
        return _written(chain, operands, hides).reshape(*weights.shape[:-1], values.shape[-1])

    def _chain(self, weights: Node) -> _Chain | None:
        """From probabilities back to a product; None where something else lies between."""
        nodes, steps, at, before_softmax = list[Node](), list[Step](), weights, False
        for _ in range(_LONGEST):
            nodes.append(at)
            if before_softmax and at in self._products:
                return _Chain(self._products[at], tuple(nodes[::-1]), tuple(steps[::-1]))
            inner = passed(at)
            if inner is None and not before_softmax:
                inner, before_softmax = _softmaxed(at), True
            elif inner is None:
                inner, step = changed(at, self._is_scores)
                steps += [step] if step is not None else []
            if inner is None or value_of(inner).shape[-2:] != value_of(at).shape[-2:]:
                return None
            at = inner
        return None

    def _is_scores(self, node: Any) -> bool:
        """Whether a node is what a product makes, or this changed."""
        at = node
        for _ in range(_LONGEST):
            if at in self._products or not isinstance(at, Node):
                return at in self._products
            at = passed(at) or changed(at, lambda a: a in self._products or self._is_scores(a))[0]
        return False

    def _operands(self, chain: _Chain, values: torch.Tensor) -> list[torch.Tensor] | None:
        """Queries, keys and values in four axes and one type, if the kernels take them; shared heads not repeated."""
        product, full = chain.product, chain.shape()
        if full is None:
            return None
        shared = [self._shared(product.b, True), self._shared(values, False)]
        found = [product.a, product.b.transpose(-2, -1), values]
        if all(t is not None for t in shared):
            found[1:] = [t for t in shared if t is not None]
        if product.a.dtype == values.dtype or all(_is_widened(t, values.dtype) for t in (product.a, product.b)):
            found = [t.to(values.dtype) for t in found]
        found = [t if t.dim() == 4 else t.reshape(*full[:2], *t.shape[-2:]) for t in found]
        one_type = len({t.dtype for t in found}) == 1 and found[0].shape[:2] == full[:2]
        grouped = found[1].shape[1] == found[2].shape[1] < full[1]
        return found if one_type and fits(self._taken, found[0], found[1], found[2], None, grouped) else None

    def _shared(self, repeated: torch.Tensor, turned: bool) -> torch.Tensor | None:
        """[B, G, T, D] of heads that are repeated to [B, H, T, D], or `turned` to [B, H, D, T]."""
        node = node_of(repeated) if repeated.dim() == 4 else None
        while node is not None and turned and passed(node) is not None:
            node = passed(node)
        if node is not None and turned:
            swaps = node.target is aten.transpose.int and {n % 4 for n in node.args[1:]} == {2, 3}
            swaps = swaps or (node.target is aten.permute.default and [n % 4 for n in node.args[1]] == [0, 1, 3, 2])
            node = node.args[0] if swaps else None
        while node is not None and node not in self._repeated:
            node = passed(node)
        source = None if node is None else self._repeated[node]
        whole = repeated.transpose(-2, -1).shape if turned else repeated.shape
        fits_in = source is not None and (source.shape[0], *source.shape[2:]) == (whole[0], *whole[2:])
        return source if fits_in else None

    def _depend_on_trained(self, masks: Iterable[Node]) -> bool:
        pending, seen = list(masks), set[Node]()
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += node.all_input_nodes
        return any(
            self._placeholders(node).get(node) in self._trained_inputs for node in seen if node.op == "placeholder"
        )

    def _held(self, weights: torch.Tensor) -> dict[Node, torch.Tensor]:
        """The values of buffers by their placeholders."""
        node = node_of(weights)
        numbered = {} if node is None else self._placeholders(node)
        return {p: self._held_inputs[n] for p, n in numbered.items() if n in self._held_inputs}

    @staticmethod
    def _placeholders(node: Node) -> dict[Node, int]:
        return {p: n for n, p in enumerate(itertools.takewhile(lambda p: p.op == "placeholder", node.graph.nodes))}


def node_of(tensor: torch.Tensor) -> Node | None:
    """The node of the traced graph that makes a tensor as it is now."""
    mode = get_proxy_mode()
    if mode is None or not isinstance(tensor, FunctionalTensor):
        return None
    torch._sync(tensor)
    slot = get_proxy_slot(torch._from_functional_tensor(tensor.elem), mode.tracer, None)
    found = None if slot is None else slot.proxy.node
    return found if isinstance(found, Node) else None


def _softmaxed(node: Node) -> Node | None:
    """What a softmax over the last axis reads."""
    if node.target is not aten._softmax.default or node.args[1] not in (-1, value_of(node).dim() - 1):
        return None
    inner = node.args[0]
    return inner if isinstance(inner, Node) else None


def _leads_to(weights: torch.Tensor, product: _Product) -> bool:
    """Whether a gradient of probabilities reaches the scores, or none is wanted: parts may be made without gradients."""
    made, source = weights, product.made
    if made.grad_fn is None or source.grad_fn is None:
        wanted = torch.is_grad_enabled() and (product.a.requires_grad or product.b.requires_grad)
        return made.grad_fn is None and source.grad_fn is None and not wanted
    pending, seen = [made.grad_fn], set[Any]()
    while pending and len(seen) < 4 * _LONGEST:
        function = pending.pop()
        if function == source.grad_fn:
            return True
        if function is not None and function not in seen:
            seen.add(function)
            pending += [following for following, _ in function.next_functions]
    return False


def _is_widened(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor in float32 has the values of one in half precision."""
    node = node_of(tensor)
    for _ in range(_LONGEST):
        if node is None or node.op != "call_function":
            return False
        if node.target is aten._to_copy.default:
            inner = node.args[0]
            return bool(value_of(node).dtype == torch.float32 and value_of(inner).dtype == dtype)
        moved = (aten.transpose.int, aten.permute.default, aten.t.default, aten.expand.default, aten.unsqueeze.default)
        node = node.args[0] if node.target in moved else passed(node)
    return False


def _expressible(chain: _Chain, hides: bool, dtype: torch.dtype) -> bool:
    """Whether a bias says what the masks do, also, where some query may see no key, for such a one."""
    fills, added = chain.fills, chain.added
    if any(number > HIDDEN or math.isnan(number) for number in fills):
        return False
    if not hides or _only_infinite(chain):
        return True
    if fills:
        return len(fills) == 1 and not added
    return dtype == torch.float32 or chain.hides_by is not None or _is_padding(chain)


def _is_padding(chain: _Chain) -> bool:
    """Whether all masks are the same for all heads and queries."""
    full = chain.shape()
    shapes = [tuple(value_of(mask).shape) for mask in chain.masks]
    return full is not None and all(math.prod(shape[-3:-1]) == 1 and len(shape) in (1, 2, 4) for shape in shapes)


def _only_infinite(chain: _Chain) -> bool:
    """Whether keys are hidden by minus infinity alone, either added or filled in."""
    hiding = {hidden_by(mask) for mask in chain.added}
    return hiding <= {-math.inf, 0.0} and chain.fills <= {-math.inf} and not (chain.fills and chain.added)


def _survives(chain: _Chain, known: torch.Tensor | None, dtype: torch.dtype) -> bool:
    """Whether rounding to the type of the queries changes nothing of what is added in a wider one."""
    wider = dtype != torch.float32 and any(value_of(mask).dtype != dtype for mask in chain.added)
    if not wider:
        return True
    if known is None:
        return all(hidden_by(mask) is not None or only_hides(mask) for mask in chain.added)
    with _disable_current_modes():
        return bool(((known == 0) | (known <= HIDDEN)).all())


def _written(chain: _Chain, operands: Sequence[torch.Tensor], hides: bool) -> torch.Tensor:
    """The operator; where some query may see no key, as `hides` says, with the result that the written form has for it."""
    q, k, v = operands
    full = (*q.shape[:3], k.shape[2])
    with torch.no_grad():
        bias = bias_of(chain.steps, full, tensor_of, q.dtype)
    if bias is None or not hides:
        return attended(q, k, v, None if bias is None else bias.to(q.dtype), chain.scale)
    if chain.added and not _only_infinite(chain):
        return _added(chain, q, k, v, bias)
    with torch.no_grad():
        bias = bias.to(q.dtype)
        empty = empty_rows(bias)
        bias = bias.masked_fill(empty, 0.0)
    if not chain.fills:
        return attended(_spoilt(q, empty), k, v, bias, chain.scale)
    made = attended(q.masked_fill(empty, 0.0), k, v, bias, chain.scale)
    if chain.fills != {-math.inf}:
        return made
    # The gradient of the scores ends at the filling, that of the values is not a number.
    with torch.no_grad():
        touched = torch.where(empty.any(-2, keepdim=True), math.nan, 0.0).to(v.dtype)
    sums = v.sum(-2, keepdim=True).repeat_interleave(q.shape[1] // v.shape[1], 1)
    return torch.where(empty, sums * touched, made)


def _spoilt(q: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Queries, not a number where a key is added minus infinity to every score: so is all that comes of them, gradients
    too."""
    return q + torch.where(empty, math.nan, 0.0).to(q.dtype)


def _added(chain: _Chain, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """With masks added of which some row may hide all keys by finite numbers."""
    if chain.hides_by is not None and chain.hides_by <= LOWEST and q.dtype == torch.float32:
        return attended(q, k, v, bias.to(q.dtype), chain.scale)
    if chain.hides_by is None:
        with torch.no_grad():
            empty = empty_rows(bias)
            bias = bias.masked_fill(empty, 0.0)
        q = _spoilt(q, empty)
    return attended_anyway(q, k, v, bias, chain.scale)


# --- while a step is traced


@contextmanager
def whole_written_attention(written: WrittenAttention) -> Iterator[None]:
    """Within, products of batches of matrices run as torch's matmul, where `written` looks for attention."""
    operator, keys = aten.matmul.default, (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)
    before = dict(operator.py_kernels)
    with ExitStack() as stack:
        for place, name, form in _forms(written):
            stack.enter_context(patch.object(place, name, form))
        try:
            operator.py_kernels.update(dict.fromkeys(keys, written.matmul))
            operator._dispatch_cache.clear()
            yield
        finally:
            operator.py_kernels.clear()
            operator.py_kernels.update(before)
            operator._dispatch_cache.clear()


def _forms(written: WrittenAttention) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Functions in whose place others run: products as matmul, and those that wait for a gradient noticed."""
    for name in ("register_hook", "retain_grad"):
        yield torch.Tensor, name, _noticed(getattr(torch.Tensor, name), written)
    yield torch.Tensor, "expand", _expand_form(torch.Tensor.expand, written)
    for place in (torch, torch.Tensor):
        yield place, "repeat_interleave", _repeat_form(place.repeat_interleave, written)
        yield place, "bmm", _product_form(place.bmm)
        yield place, "baddbmm", _added_form(place.baddbmm)
    yield torch, "einsum", _einsum_form(torch.einsum)


def _noticed(original: Callable[..., Any], written: WrittenAttention) -> Callable[..., Any]:
    def noticed(self: torch.Tensor, *args: Any, **named: Any) -> Any:
        written.hook(self)
        return original(self, *args, **named)

    return noticed


def _expand_form(original: Callable[..., Any], written: WrittenAttention) -> Callable[..., Any]:
    """Noticing [B, G, 1, T, D] that becomes [B, G, H / G, T, D]."""

    def expand(self: torch.Tensor, *args: Any, **named: Any) -> Any:
        made = original(self, *args, **named)
        if self.dim() == made.dim() == 5 and self.shape == (*made.shape[:2], 1, *made.shape[3:]):
            written.repeat(self.squeeze(2), made)
        return made

    return expand


def _repeat_form(original: Callable[..., Any], written: WrittenAttention) -> Callable[..., Any]:
    """Noticing [B, G, T, D] that becomes [B, H, T, D]."""

    def repeat_interleave(self: torch.Tensor, *args: Any, **named: Any) -> Any:
        made = original(self, *args, **named)
        whole = isinstance(self, torch.Tensor) and self.dim() == made.dim() == 4
        if whole and self.shape[1] and (made.shape[0], *made.shape[2:]) == (self.shape[0], *self.shape[2:]):
            times = next((a for a in (*args, *named.values()) if isinstance(a, int)), None)
            if times is not None and made.shape[1] == times * self.shape[1]:
                written.repeat(self, made)
        return made

    return repeat_interleave


def _product_form(original: Callable[..., Any]) -> Callable[..., Any]:
    within = False  # torch takes some matmul apart, in Python, and calls bmm for it

    def bmm(*args: Any, **named: Any) -> Any:
        nonlocal within
        if within or named or not _are_batches(args):
            return original(*args, **named)
        within = True
        try:
            return torch.matmul(*args)
        finally:
            within = False

    return bmm


def _added_form(original: Callable[..., Any]) -> Callable[..., Any]:
    def baddbmm(*args: Any, **named: Any) -> Any:
        plain = not named and len(args) == 3 and isinstance(args[0], torch.Tensor) and _are_batches(args[1:])
        if not plain or args[0].dtype != args[1].dtype:
            return original(*args, **named)
        product = torch.matmul(*args[1:])
        return args[0].to(product.dtype) + product  # under autocast the product is narrower, and so is torch's sum

    return baddbmm


def _are_batches(operands: Sequence[Any]) -> bool:
    """Two tensors [N, S, D] and [N, D, T] of one type."""
    if len(operands) != 2 or not all(isinstance(t, torch.Tensor) and t.dim() == 3 for t in operands):
        return False
    a, b = operands
    return bool(a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1] and a.dtype == b.dtype)


def _einsum_form(original: Callable[..., Any]) -> Callable[..., Any]:
    def einsum(equation: Any, *operands: Any) -> Any:
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        orders = _orders(equation) if isinstance(equation, str) and len(operands) == 2 else None
        if orders is None or any(not isinstance(t, torch.Tensor) or t.dim() != 4 for t in operands):
            return original(equation, *operands)
        a, b = (_permuted(t, order) for t, order in zip(operands, orders[:2], strict=True))
        fitting = a.shape[:2] == b.shape[:2] and a.shape[3] == b.shape[2]
        return _permuted(torch.matmul(a, b), orders[2]) if fitting else original(equation, *operands)

    return einsum


def _permuted(tensor: torch.Tensor, order: list[int]) -> torch.Tensor:
    return tensor if order == sorted(order) else tensor.permute(order)


def _orders(equation: str) -> tuple[list[int], list[int], list[int]] | None:
    """Permutations that make an equation of two tensors of four axes one product of matrices: of the operands and of the
    result; two letters lie in all three, one in both operands, and one in either and the result."""
    text = equation.replace(" ", "")
    left, arrow, out = text.partition("->")
    first, comma, second = left.partition(",")
    names = (first, second, out)
    if not arrow or not comma or any(len(set(n)) != 4 or len(n) != 4 or not n.isalpha() for n in names):
        return None
    batch = [c for c in out if c in first and c in second]
    summed = [c for c in first if c in second and c not in out]
    rows, columns = ([c for c in a if c in out and c not in b] for a, b in ((first, second), (second, first)))
    if (len(batch), len(summed), len(rows), len(columns)) != (2, 1, 1, 1):
        return None
    made = [*batch, *rows, *columns]
    orders = ([*batch, *rows, *summed], [*batch, *summed, *columns])
    found = [[name.index(c) for c in order] for name, order in zip((first, second), orders, strict=True)]
    return found[0], found[1], [made.index(c) for c in out]
