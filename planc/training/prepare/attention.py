"""Finds attention in a forward model and makes it one operator, for devices with kernels of planc's own.

    Softmax(Q K' * scale [+ bias]) V, written out, and ONNX's Attention (opset 23)  ->  FusedAttention(Q, K, V[, bias])

Transposes of heads around it are absorbed, constant masks, added or filled in by Where, are its bias, and heads that are
repeated are read as they were before. What does not fit is left as it is: scores that somebody else reads, dropout between
the softmax and V, masks that are trained or that the step computes and adds (but for those of the lowest numbers in
float32), constant ones that hide all keys of a query, and minus infinity filled in where the step computes so.
"""

import math
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import annotate_like
from planc.graph.nodes import replace_nodes
from planc.kernels.attention import HIDDEN, LOWEST, computed_by_library, has_kernels_for, is_causal
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Array, Var
from planc.training.prepare.finder import Finder
from planc.training.prepare.fold import share_constants
from planc.training.registry import attributes_of

OP_TYPE = "FusedAttention"
"""How rules know it; a finished graph has planc's own operator instead."""

_SWAP = [0, 2, 1, 3]

_MOVES = ("Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def fuse_attention(
    model: onnx.ModelProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str] = (),
    library: bool = False,
) -> dict[str, Var]:  # fmt: skip
    """Rewrite `model` in place; returns the tensors that it has now, by name. Those `wanted` stay. For a `library` of the
    CPU, what it computes."""
    made: dict[str, Var] = {}
    if stays_whole(model):
        replace_nodes(model.graph, _whole(model.graph.node, values, made))
        made |= _shapes(model, {**values, **made})
        values = {**values, **made}
    work = _Attention(model.graph, values, trained, wanted)
    work.library = library
    for node in work.nodes:
        site = work.site(node) if node.op_type == "Softmax" else None
        if site is not None:
            work.rewrite(site)
    work.finish()
    share_constants(model, trained)
    return work.values


@dataclass(frozen=True)
class _Site:
    """Written-out attention: its nodes, operands, and whether these have the heads behind the places. Of `turned` keys,
    transposed together with their heads, the heads stay transposed."""

    nodes: tuple[onnx.NodeProto, ...]
    operands: tuple[str, ...]
    bias: Array | None
    output: str
    scale: float
    causal: bool
    heads_last: bool
    turned: onnx.NodeProto | None
    condition: tuple[str, bool] | None
    """A mask that the step computes, and whether it is true for keys that are hidden."""
    added: str | None
    """A bias that the step computes."""


@dataclass
class _Keys:
    """Keys [B, G, T, D], or with the heads behind the places, before they were `turned`, and what scaled them."""

    name: str
    turned: onnx.NodeProto
    heads_last: bool
    scale: float
    nodes: list[onnx.NodeProto]


@dataclass
class _Scores:
    """Scores before what scaled and masked them, and the bias that says the same, put together in `bias_types`."""

    name: str
    nodes: list[onnx.NodeProto]
    scale: float
    bias: Array | None
    bias_types: set[int]
    condition: tuple[str, bool] | None = None
    added: str | None = None


class _Attention(Finder):
    """Looks for sites around every softmax of a graph."""

    library = False
    """Whether a library of the CPU is to compute them."""

    def site(self, softmax: onnx.NodeProto) -> _Site | None:
        """The attention around a softmax over keys."""
        weights, found = softmax.output[0], [softmax]
        axis = attributes_of(softmax).get("axis", -1)
        if self.values[weights].rank != 4 or axis not in (-1, 3) or self.values[weights].dtype not in C_TYPES:
            return None
        while cast := self.sole_reader(weights, "Cast"):
            found, weights = [*found, cast], cast.output[0]
        mixed = self.sole_reader(weights, "MatMul")
        scores = self._scores(softmax.input[0]) if mixed is not None and mixed.input[0] == weights else None
        product = None if scores is None else self.made_for(scores.name, "MatMul")
        keys = None if product is None else self._keys(product.input[1])
        if mixed is None or scores is None or product is None or keys is None:
            return None
        nodes = [*found, mixed, *scores.nodes, product, *keys.nodes]
        return self._placed(nodes, product.input[0], keys, mixed, scores)

    def _scores(self, name: str) -> _Scores | None:
        """What scores were before they were scaled and masked by constants; None where something else happened to them,
        or a mask hides all keys of a query."""
        nodes, steps, scale, floats = list[onnx.NodeProto](), list[tuple[str, Any]](), 1.0, set[int]()
        shape = self.values[name].shape
        while (node := self.made_for(name, "Cast", "Mul", "Div", "Add", "Where")) is not None:
            if node.op_type == "Cast":
                name = node.input[0]
                if self.values[name].dtype not in C_TYPES:
                    return None
            elif scaled := self._scaling(name):
                _, name, factor = scaled
                scale *= factor
                steps.append(("times", factor))
            else:
                masked = self._masked(node)
                if masked is None:
                    return None
                name, step = masked
                steps.append(step)
                floats.add(self.values[name].dtype)
            nodes.append(node)
            if self.values[name].shape != shape:
                return None
        masks = [step for step in steps if step[0] != "times"]
        if any(value <= 0 for kind, value in steps if kind == "times") and masks:
            return None
        if any(kind == "computed" for kind, _ in masks):
            return _Scores(name, nodes, scale, None, floats, condition=masks[0][1]) if len(masks) == 1 else None
        if any(kind == "added" for kind, _ in masks):
            alone = len(masks) == 1 and masks[0] == steps[0]
            return _Scores(name, nodes, scale, None, floats, added=masks[0][1]) if alone else None
        bias = _bias(steps)
        if bias is not None and not ((bias > HIDDEN).any(-1).all() and bias.ndim <= 4 and not np.isnan(bias).any()):
            return None
        return _Scores(name, nodes, scale, bias, floats)

    def _masked(self, node: onnx.NodeProto) -> tuple[str, tuple[str, Any]] | None:
        """Scores before a constant was added, or a number filled in where a mask says so, and which."""
        if node.op_type == "Add":
            constants = [(self.constant(a), b) for a, b in (node.input, node.input[::-1])]
            known = [(np.asarray(value, np.float64), scores) for value, scores in constants if value is not None]
            if known:
                return (known[0][1], ("add", known[0][0])) if len(known) == 1 else None
            lowest = [(a, b) for a, b in (node.input, node.input[::-1]) if self._is_lowest(a)]
            return (lowest[0][1], ("added", lowest[0][0])) if len(lowest) == 1 else None
        if node.op_type != "Where":
            return None
        where = self.constant(node.input[0])
        for scores, filling, hidden in ((1, 2, False), (2, 1, True)):
            number = self.number(node.input[filling])
            if number is None or number > HIDDEN:
                continue
            if where is not None:
                return node.input[scores], ("fill", where if hidden else ~where)
            if number > -math.inf:
                return node.input[scores], ("computed", (node.input[0], hidden))
        return None

    def _is_lowest(self, name: str) -> bool:
        """Whether a mask that the step computes is 0 or one of the lowest numbers, in float32."""
        while (node := self.made_by(name, *_MOVES)) is not None and self.values[name].dtype == TensorProto.FLOAT:
            name = node.input[0]
        if self.values[name].dtype != TensorProto.FLOAT:
            return False
        if (node := self.made_by(name, "Where")) is not None:
            numbers = [self.number(a) for a in node.input[1:]]
            return all(n is not None and (n == 0 or n <= LOWEST) for n in numbers)
        node = self.made_by(name, "Mul")
        factors = [(self.number(a), b) for a, b in (node.input, node.input[::-1])] if node is not None else []
        return any(number is not None and number <= LOWEST and self._is_counted(b) for number, b in factors)

    def _is_counted(self, name: str) -> bool:
        """Whether a tensor is 1 less whole numbers."""
        node = self.made_by(name, "Sub")
        cast = None if node is None or self.number(node.input[0]) != 1 else self.made_by(node.input[1], "Cast")
        return cast is not None and self.values[cast.input[0]].dtype not in C_TYPES

    def _scaling(self, name: str) -> tuple[onnx.NodeProto, str, float] | None:
        """A product with, or quotient by, a constant number: node, other operand, factor."""
        node = self.made_for(name, "Mul", "Div")
        if node is None:
            return None
        for position in (1, 0) if node.op_type == "Mul" else (1,):
            number = self.number(node.input[position])
            if number and self.values[node.input[1 - position]].shape == self.values[name].shape:
                return node, node.input[1 - position], number if node.op_type == "Mul" else 1 / number
        return None

    def _unscaled(self, name: str) -> tuple[str, float, list[onnx.NodeProto]]:
        """Queries or keys before they were scaled, on one side of their transpose."""
        if scaled := self._scaling(name):
            return scaled[1], scaled[2], [scaled[0]]
        return name, 1.0, []

    def _keys(self, name: str) -> _Keys | None:
        """Keys before they were transposed to [B, H, D, T], scaled before or behind that."""
        name, first, behind = self._unscaled(name)
        node = self.made_for(name, "Transpose")
        perm = None if node is None else attributes_of(node)["perm"]
        if node is None or perm not in ([0, 1, 3, 2], [0, 2, 3, 1]):
            return None
        name, second, before = self._unscaled(node.input[0])
        return _Keys(name, node, perm == [0, 2, 3, 1], first * second, [*behind, *before])

    def _swapped(self, name: str) -> tuple[str, onnx.NodeProto] | None:
        """[B, S, H, D] that a tensor is the transpose of."""
        node = self.made_for(name, "Transpose")
        return (node.input[0], node) if node is not None and attributes_of(node)["perm"] == _SWAP else None

    def _shared(self, name: str) -> tuple[str, list[onnx.NodeProto]]:
        """Heads [B, G, T, D] before each was repeated; the tensor itself where they are not."""
        joined = self.made_for(name, "Reshape")
        wide = self.made_for(joined.input[0], "Expand") if joined is not None else None
        parted = self.made_for(wide.input[0], "Reshape", "Unsqueeze") if wide is not None else None
        if joined is None or wide is None or parted is None:
            return name, []
        source, made = self.values[parted.input[0]].shape, self.values[wide.output[0]].shape
        split = len(source) == 4 and self.values[parted.output[0]].shape == (*source[:2], 1, *source[2:])
        repeated = split and (*made[:2], *made[3:]) == source and len(made) == 5
        whole = self.values[name].shape == (source[0], math.prod(made[1:3]), *source[2:]) if repeated else False
        return (parted.input[0], [joined, wide, parted]) if whole else (name, [])

    def _placed(
        self, nodes: list[onnx.NodeProto], query: str, keys: _Keys, mixed: onnx.NodeProto, scores: _Scores
    ) -> _Site | None:
        """The site with its operands where they lie: heads behind the places, where all have them there."""
        value, output, scale = mixed.input[1], mixed.output[0], scores.scale * keys.scale
        query, factor, more = self._unscaled(query)
        nodes, scale, key, turned = [*nodes, *more], scale * factor, keys.name, None
        swapped = [self._swapped(query), self._swapped(value)] if keys.heads_last else []
        after = self.sole_reader(output, "Transpose") if keys.heads_last else None
        last = all(swapped) and after is not None and attributes_of(after)["perm"] == _SWAP
        if keys.heads_last and last and after is not None:
            (query, first), (value, second) = (s for s in swapped if s is not None)
            output = after.output[0]
            query, factor, more = self._unscaled(query)
            scale, nodes = scale * factor, [*nodes, keys.turned, first, second, after, *more]
        elif keys.heads_last:
            if keys.name != keys.turned.input[0]:
                return None
            turned = keys.turned
        else:
            (key, shared), (value, also) = self._shared(key), self._shared(value)
            nodes = [*nodes, keys.turned, *shared, *also]
        if not self._fit(query, key, value, turned is not None, keys.heads_last and turned is None):
            return None
        bias, causal = self._mask(scores, self.values[scores.name].shape[-2:], self.values[query].dtype)
        if bias is None and scores.bias is not None and not causal:
            return None
        if scores.condition is not None:
            mask, places = self.values[scores.condition[0]], self.values[scores.name].shape[-2:]
            stretched = self.values[query].dtype != TensorProto.FLOAT and mask.shape[-2:] != places
            if not 2 <= mask.rank <= 4 or stretched or (last and math.prod(mask.shape[1:-2]) > 1):
                return None
        if scores.added is not None:
            ranks = 2 <= self.values[scores.added].rank <= 4
            if self.values[query].dtype != TensorProto.FLOAT or not ranks:
                return None
        return _Site(
            tuple(nodes), (query, key, value), bias, output, scale, causal, bool(last), turned, scores.condition,
            scores.added,
        )  # fmt: skip

    def _fit(self, query: str, key: str, value: str, turned: bool, last: bool) -> bool:
        """Whether the kernels take these: one type, batch and width, heads of the queries a multiple of those of keys."""
        q, k, v = (self.values[name] for name in (query, key, value))
        if len({q.dtype, k.dtype, v.dtype}) != 1 or any(t.rank != 4 for t in (q, k, v)) or q.dtype not in C_TYPES:
            return False
        shape, kept, heads = q.shape, k.shape, 2 if last else 1
        if turned:
            kept = tuple(kept[axis] for axis in _SWAP)
        alike = kept == v.shape and (shape[0], shape[3]) == (kept[0], kept[3]) and shape[heads] % kept[heads] == 0
        served = not self.library or computed_by_library(q.dtype, shape[heads], kept[heads])
        return alike and served and has_kernels_for(shape[3])

    def _mask(self, scores: _Scores, places: tuple[int, ...], dtype: int) -> tuple[Array | None, bool]:
        """What is left of a bias in the type of the queries, and whether it says that a query sees no later key; neither
        where rounding it would change what it says."""
        bias = scores.bias
        if bias is None or is_causal(bias, places):
            return None, bias is not None
        says = bool(((bias == 0) | (bias <= HIDDEN)).all())
        if dtype != TensorProto.FLOAT and not says and scores.bias_types != {dtype}:
            return None, False
        bias = np.where(bias <= HIDDEN, -np.inf, bias) if says else bias
        if dtype != TensorProto.FLOAT:  # cuDNN stretches a bias along batch and heads only
            bias = np.broadcast_to(bias, (*bias.shape[:-2], *places))
        return np.ascontiguousarray(bias, helper.tensor_dtype_to_np_dtype(dtype)), False

    def rewrite(self, site: _Site) -> None:
        """One node in the place of the last of the site."""
        query, key = self.values[site.operands[0]], site.operands[1]
        if site.turned is not None:
            next(a for a in site.turned.attribute if a.name == "perm").ints[:] = _SWAP
            key = site.turned.output[0]
            self.values[key] = Var(key, tuple(self.values[site.turned.input[0]].shape[a] for a in _SWAP), query.dtype)
        bias = [] if site.bias is None else [self.hold(f"{site.output}.bias", site.bias)]
        before, operands = list[onnx.NodeProto](), [site.operands[0], key, site.operands[2], *bias]
        if site.condition is not None:
            operands[0], computed = self._seen(site, *site.condition, before)
            operands.append(computed)
        if site.added is not None:
            operands.append(site.added)
        self.values[site.output] = Var(site.output, query.shape, query.dtype)
        self.replace(
            site.nodes, OP_TYPE, operands, site.output, before,
            scale=site.scale, causal=int(site.causal), heads_last=int(site.heads_last),
        )  # fmt: skip

    def _seen(self, site: _Site, mask: str, hides: bool, made: list[onnx.NodeProto]) -> tuple[str, str]:
        """Queries and bias under a mask; a query that sees no key is 0 and sees all, which makes its result the mean of the
        values and its gradient 0, as after filling all its scores with one number."""
        query, shape = self.values[site.operands[0]], self.values[mask].shape
        rows = (*shape[:-1], 1)

        def emit(op_type: str, inputs: list[str], shape: tuple[int, ...], dtype: int, **attributes: Any) -> str:
            name = f"{site.output}.mask.{len(made)}"
            made.append(helper.make_node(op_type, inputs, [name], name, **attributes))
            self.values[name] = Var(name, shape, dtype)
            return name

        def number(value: float) -> str:
            kind = helper.tensor_dtype_to_np_dtype(query.dtype)
            return self.hold(f"{site.output}.mask.{len(made)}.{value}", np.asarray(value, kind))

        visible = emit("Not", [mask], shape, TensorProto.BOOL) if hides else mask
        last = self.hold(f"{site.output}.mask.last", np.array([-1]))
        counted = emit("Cast", [visible], shape, TensorProto.FLOAT, to=TensorProto.FLOAT)
        seen = emit("ReduceMax", [counted, last], rows, TensorProto.FLOAT, keepdims=1)
        seen = emit("Cast", [seen], rows, TensorProto.BOOL, to=TensorProto.BOOL)
        unseen = emit("Not", [seen], rows, TensorProto.BOOL)
        shown = emit("Or", [visible, unseen], shape, TensorProto.BOOL)
        bias = emit("Where", [shown, number(0.0), number(-math.inf)], shape, query.dtype)
        if site.heads_last:
            turned = (shape[0] if len(shape) == 4 else 1, shape[-2], 1, 1)
            to = self.hold(f"{site.output}.mask.rows", np.array(turned))
            seen = emit("Reshape", [seen, to], turned, TensorProto.BOOL)
        return emit("Where", [seen, site.operands[0], number(0.0)], query.shape, query.dtype), bias


def _bias(steps: Sequence[tuple[str, Any]]) -> Array | None:
    """What steps, the last first, add to scores, minus infinity where they fill; None where they only scale."""
    bias: Array | None = None
    for kind, value in reversed(steps):
        if kind == "times":
            bias = None if bias is None else bias * value
        elif kind == "add":
            bias = value if bias is None else bias + value
        else:
            bias = np.where(value, -np.inf, 0.0 if bias is None else bias)
    return None if bias is None else np.asarray(bias).reshape((1,) * (2 - np.ndim(bias)) + np.shape(bias))


def stays_whole(model: onnx.ModelProto) -> bool:
    """Whether every Attention of ONNX (opset 23) in a model is one that `fuse_attention` takes: no past, no softcap, no
    scores as outputs. Others are expanded."""
    found = [node for node in model.graph.node if node.op_type == "Attention"]
    return bool(found) and all(_is_plain(node) for node in found)


def _is_plain(node: onnx.NodeProto) -> bool:
    attributes = attributes_of(node)
    inputs, outputs = [name for name in node.input if name], [name for name in node.output if name]
    unusual = ("softcap", "qk_matmul_output_mode", "softmax_precision")
    return len(inputs) in (3, 4) and len(outputs) == 1 and not any(attributes.get(name) for name in unusual)


def _whole(
    nodes: Iterable[onnx.NodeProto], values: Mapping[str, Var], made: dict[str, Var]
) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield from _of_onnx(node, values, made) if node.op_type == "Attention" else (node,)


def _of_onnx(node: onnx.NodeProto, values: Mapping[str, Var], made: dict[str, Var]) -> Iterator[onnx.NodeProto]:
    """ONNX's Attention as `FusedAttention`; where its heads lie side by side in three axes, between reshapes."""
    attributes = attributes_of(node)
    operands, (output,) = [name for name in node.input if name], [name for name in node.output if name]
    counts = [attributes.get(name) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    last = values[operands[0]].rank == 3
    if last:
        for position, count in enumerate(counts):
            whole = values[operands[position]]
            batch, places, width = whole.shape
            heads = int(count or 1)
            split = Var(f"{node.name}.heads.{position}", (batch, places, heads, width // heads), whole.dtype)
            made[split.name] = split
            yield _reshaped(node, whole.name, split)
            operands[position] = split.name
    query = made.get(operands[0]) or values[operands[0]]
    if len(operands) > 3 and values[operands[3]].dtype == TensorProto.BOOL:
        operands[3] = yield from _added(node, values[operands[3]], query.dtype, made)
    result = Var(f"{node.name}.heads.y", query.shape, query.dtype) if last else values[output]
    made[result.name] = result
    scale = float(attributes.get("scale", query.shape[-1] ** -0.5))
    fused = helper.make_node(
        OP_TYPE, operands, [result.name], name=node.name, scale=scale, causal=int(attributes.get("is_causal", 0)),
        heads_last=int(last),
    )  # fmt: skip
    annotate_like(fused, node)
    yield fused
    if last:
        yield _reshaped(node, result.name, values[output])


def _added(
    node: onnx.NodeProto, mask: Var, dtype: int, made: dict[str, Var]
) -> Generator[onnx.NodeProto, None, str]:  # fmt: skip
    """What a boolean mask adds to scores, log 1 = 0 where it is true and log 0 = -inf where it is not; its name."""
    name = mask.name
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (("Cast", {"to": dtype}), ("Log", {}))
    for op_type, attributes in kinds:
        result = Var(f"{node.name}.mask.{op_type}", mask.shape, dtype)
        made[result.name] = result
        emitted = helper.make_node(op_type, [name], [result.name], name=result.name, **attributes)
        annotate_like(emitted, node)
        yield emitted
        name = result.name
    return name


def _shapes(model: onnx.ModelProto, values: Mapping[str, Var]) -> dict[str, Var]:
    """Initializers for the shapes that new reshapes read."""
    known = {t.name for t in model.graph.initializer} | values.keys()
    made: dict[str, Var] = {}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] not in known:
            shape = np.array(values[node.output[0]].shape, np.int64)
            model.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))
            made[node.input[1]] = Var(node.input[1], shape.shape, TensorProto.INT64)
    return made


def _reshaped(node: onnx.NodeProto, source: str, to: Var) -> onnx.NodeProto:
    """A view of `source`."""
    made = helper.make_node("Reshape", [source, f"{to.name}.shape"], [to.name], name=f"{node.name}.{to.name}")
    annotate_like(made, node)
    return made
