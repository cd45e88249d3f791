"""Embeddings, gathers and scatters."""

from typing import Any

import numpy as np
from onnx import TensorProto

from planc.torch.lowering import TorchLowering, aten, lower
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Var


@lower(aten.embedding.default)
def embedding(
    c: TorchLowering, weight: Var, indices: Var, padding_idx: int = -1, scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Var:  # fmt: skip
    """Rows of `weight`."""
    del padding_idx, scale_grad_by_freq, sparse
    c.index_ranges[indices.name] = min(weight.shape[0], c.index_ranges.get(indices.name, weight.shape[0]))
    return c.b.op("Gather", [weight, indices], c.specs[0][0], axis=0)


@lower(aten.embedding_dense_backward.default)
def embedding_backward(
    c: TorchLowering, grad_output: Var, indices: Var, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Var:
    """Rows summed by index, in the library's repeatable form, or averaged; the padding row gets none."""
    table = Var("", (num_weights, grad_output.shape[-1]), grad_output.dtype)
    found = _gather_gradient(c, table, indices, grad_output, 0)
    if scale_grad_by_freq:
        column, one = Var("", (num_weights, 1), TensorProto.FLOAT), c.b.full((), 1.0, TensorProto.FLOAT)
        counts = _gather_gradient(c, column, indices, c.b.expand(one, (*indices.shape, 1)), 0)
        found = c.b.div(found, c.b.cast(c.b.op("Max", [counts, one], counts.shape), found.dtype))
    if not 0 <= padding_idx < num_weights:
        return found
    kept = np.ones((num_weights, 1), np.float32)
    kept[padding_idx] = 0
    return c.b.mul(found, c.b.cast(c.b.constant(kept), found.dtype))


def _gather_gradient(c: TorchLowering, table: Var, indices: Var, dy: Var, axis: int) -> Var:
    node = forward_node(c.b, c.table, "Gather", [table, indices], [dy], axis=axis)
    return c.b.cast(gradients_of(c.b, node, [dy], [0])[0], table.dtype)


@lower(aten.index_select.default)
def index_select(c: TorchLowering, self: Var, dim: int, index: Var) -> Var:
    """Positions `index` of an axis."""
    c.index_ranges.setdefault(index.name, self.shape[dim] if self.rank else 1)
    if not self.rank:
        return c.view(self, c.specs[0][0])
    if not index.rank:
        index = c.view(index, (1,))
    return c.b.op("Gather", [self, index], c.specs[0][0], axis=dim % self.rank)


@lower(aten.gather.default)
def gather(c: TorchLowering, self: Var, dim: int, index: Var, sparse_grad: bool = False) -> Var:
    """One element per index along an axis."""
    del sparse_grad
    c.index_ranges.setdefault(index.name, self.shape[dim] if self.rank else 1)
    if not self.rank:
        return c.view(self, c.specs[0][0])
    if index.rank == 0:
        index = c.view(index, (1,))
    return c.view(c.b.op("GatherElements", [self, index], index.shape, self.dtype, axis=dim % self.rank), c.specs[0][0])


@lower(aten.scatter_add.default, raw=("self",))
def scatter_add(c: TorchLowering, self: Any, dim: int, index: Var, src: Var) -> Var:
    """src added at `index` along an axis; onto zeros it is the gradient of a gather."""
    shape, dtype = c.specs[0]
    if not index.size:  # nothing is added, whatever the rank of the index
        return c.value(self)
    if not shape:
        return c.b.reshape(src, ()) if c.number(self) == 0 else c.b.add(c.value(self), c.b.reshape(src, ()))
    axis, part, index = dim % len(shape), src, c.b.cast(index, TensorProto.INT64)
    if src.shape != index.shape:
        part = c.b.slice(src, {i: (0, d, 1) for i, d in enumerate(index.shape)})
    node = forward_node(c.b, c.table, "GatherElements", [Var("", shape, dtype), index], [part], axis=axis)
    added = c.b.cast(gradients_of(c.b, node, [part], [0])[0], dtype)
    return added if c.number(self) == 0 else c.b.add(c.value(self), added)


@lower(aten.scatter.value, aten.scatter.src)
def scatter(c: TorchLowering, self: Var, dim: int, index: Var, value: Any = None, src: Var | None = None) -> Var:
    """Elements replaced at `index` along an axis; indices must not collide."""
    part = src if src is not None else c.b.expand(c.b.scalar_for(float(value), self), index.shape)
    if not self.rank:
        return c.b.reshape(part, ())
    return c.b.op("ScatterElements", [self, index, part], self.shape, axis=dim % self.rank)


@lower(aten.one_hot.default)
def one_hot(c: TorchLowering, self: Var, num_classes: int = -1) -> Var:
    """1 at each label, else 0."""
    levels = c.b.constant(np.array([0, 1], np.int64))
    del num_classes
    return c.b.op("OneHot", [self, c.b.ints([c.specs[0][0][-1]]), levels], *c.specs[0])
