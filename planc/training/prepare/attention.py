"""Finds attention in a forward model and makes it one operator, for devices with kernels of planc's own.

    Softmax(Q K' * scale [+ bias]) V, written out, and ONNX's Attention (opset 23)  ->  FusedAttention(Q, K, V[, bias])

Transposes of heads around it are absorbed. What does not fit is left as it is: scores that somebody else reads, dropout
between the softmax and V, a bias that is trained.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from planc.graph.annotations import annotate_like
from planc.graph.nodes import replace_nodes
from planc.kernels.attention import is_causal
from planc.kernels.source import C_TYPES
from planc.training.emit.builder import Var
from planc.training.prepare.finder import Finder
from planc.training.registry import attributes_of

OP_TYPE = "FusedAttention"
"""How rules know it; a finished graph has planc's own operator instead."""

_SWAP = [0, 2, 1, 3]


def fuse_attention(
    model: onnx.ModelProto, values: Mapping[str, Var], trained: Collection[str], wanted: Collection[str] = ()
) -> dict[str, Var]:  # fmt: skip
    """Rewrite `model` in place; returns the tensors that it has now, by name. Those `wanted` stay."""
    made: dict[str, Var] = {}
    if stays_whole(model):
        replace_nodes(model.graph, _whole(model.graph.node, values, made))
        made |= _shapes(model, {**values, **made})
        values = {**values, **made}
    work = _Attention(model.graph, values, trained, wanted)
    for node in work.nodes:
        site = work.site(node) if node.op_type == "Softmax" else None
        if site is not None:
            work.rewrite(site)
    work.finish()
    return work.values


@dataclass(frozen=True)
class _Site:
    """Written-out attention: its nodes, operands, and whether these have the heads behind the places."""

    nodes: tuple[onnx.NodeProto, ...]
    operands: tuple[str, ...]
    output: str
    scale: float
    causal: bool
    heads_last: bool


class _Attention(Finder):
    """Looks for sites around every softmax of a graph."""

    def _peeled(self, name: str, found: list[onnx.NodeProto]) -> str:
        """What a chain of casts that only serves `name` is made from; the casts join `found`."""
        while cast := self.made_for(name, "Cast"):
            found.append(cast)
            name = cast.input[0]
        return name

    def site(self, softmax: onnx.NodeProto) -> _Site | None:
        """The attention around a softmax over keys."""
        scores, weights = softmax.input[0], softmax.output[0]
        axis = attributes_of(softmax).get("axis", -1)
        if self.values[scores].rank != 4 or axis not in (-1, 3) or self.values[scores].dtype not in C_TYPES:
            return None
        found, bias, scale = [softmax], list[str](), 1.0
        while cast := self.sole_reader(weights, "Cast"):
            found, weights = [*found, cast], cast.output[0]
        mixed = self.sole_reader(weights, "MatMul")
        if mixed is None or mixed.input[0] != weights:
            return None
        found.append(mixed)
        scores = self._peeled(scores, found)
        if added := self.made_for(scores, "Add"):
            scores, other = self._split(added)
            bias, found = [other], [*found, added]
        scores = self._peeled(scores, found)
        if scaled := self._scaling(scores):
            scores, factor = scaled[1], scaled[2]
            scale, found = scale * factor, [*found, scaled[0]]
        scores = self._peeled(scores, found)
        product = self.made_for(scores, "MatMul")
        if product is None:
            return None
        query, factor, more = self._unscaled(product.input[0])
        key = self._turned(product.input[1])
        if key is None:
            return None
        found += [product, *more]
        return self._finished(found, query, key, mixed, bias, scale * factor)

    def _split(self, added: onnx.NodeProto) -> tuple[str, str]:
        """Scores and what is added to them: what a MatMul, scaled or not, makes, and the other."""
        a, b = added.input
        is_scores = self.made_by(a, "MatMul", "Mul", "Div", "Cast") is not None and self.values[a].rank == 4
        return (a, b) if is_scores else (b, a)

    def _scaling(self, name: str) -> tuple[onnx.NodeProto, str, float] | None:
        """A product with, or quotient by, a constant number: node, other operand, factor."""
        node = self.made_for(name, "Mul", "Div")
        if node is None:
            return None
        for position in (1, 0) if node.op_type == "Mul" else (1,):
            number = self.number(node.input[position])
            if number:
                return node, node.input[1 - position], number if node.op_type == "Mul" else 1 / number
        return None

    def _unscaled(self, query: str) -> tuple[str, float, list[onnx.NodeProto]]:
        """The queries before they were scaled, on either side of their transpose."""
        if scaled := self._scaling(query):
            return scaled[1], scaled[2], [scaled[0]]
        return query, 1.0, []

    def _turned(self, name: str) -> tuple[str, bool, onnx.NodeProto] | None:
        """Keys [B, H, D, T] before they were transposed: the tensor, whether its heads are last, the node."""
        node = self.made_for(name, "Transpose")
        perm = None if node is None else attributes_of(node)["perm"]
        if node is None or perm not in ([0, 1, 3, 2], [0, 2, 3, 1]):
            return None
        return node.input[0], perm == [0, 2, 3, 1], node

    def _swapped(self, name: str) -> tuple[str, onnx.NodeProto] | None:
        """[B, S, H, D] that a tensor is the transpose of."""
        node = self.made_for(name, "Transpose")
        return (node.input[0], node) if node is not None and attributes_of(node)["perm"] == _SWAP else None

    def _finished(
        self, found: Sequence[onnx.NodeProto], query: str, key: tuple[str, bool, onnx.NodeProto], mixed: onnx.NodeProto,
        bias: list[str], scale: float,
    ) -> _Site | None:  # fmt: skip
        value, output = mixed.input[1], mixed.output[0]
        nodes, heads_last = [*found, key[2]], key[1]
        keys = key[0]
        if heads_last:
            swapped = [self._swapped(query), self._swapped(value)]
            after = self.sole_reader(output, "Transpose")
            if None in swapped or after is None or attributes_of(after)["perm"] != _SWAP:
                return None
            (query, first), (value, second) = (s for s in swapped if s is not None)
            nodes += [first, second, after]
            output = after.output[0]
            query, factor, more = self._unscaled(query)
            scale, nodes = scale * factor, [*nodes, *more]
        hidden, bias = self._mask(bias, self.values[mixed.input[0]].shape)
        if bias and (bias[0] in self.trained or bias[0] in self.maker):
            return None
        if bias and self.values[bias[0]].dtype != self.values[query].dtype:
            return None
        shapes = [self.values[name].shape for name in (query, keys, value)]
        if any(len(s) != 4 for s in shapes) or shapes[1] != shapes[2] or shapes[0][-1] != shapes[1][-1]:
            return None
        return _Site(tuple(nodes), (query, keys, value, *bias), output, scale, hidden, heads_last)

    def _mask(self, bias: list[str], scores: tuple[int, ...]) -> tuple[bool, list[str]]:
        """Whether a constant bias is a causal mask, and what is left of it."""
        constant = self.constant(bias[0]) if bias else None
        return (True, []) if constant is not None and is_causal(constant, scores[-2:]) else (False, bias)

    def rewrite(self, site: _Site) -> None:
        """One node in the place of the last of the site."""
        query = self.values[site.operands[0]]
        self.values[site.output] = Var(site.output, query.shape, query.dtype)
        self.replace(
            site.nodes, OP_TYPE, site.operands, site.output,
            scale=site.scale, causal=int(site.causal), heads_last=int(site.heads_last),
        )  # fmt: skip


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
