"""Biases of matrix products leave the product for the element-wise chains behind it, where adding them takes no pass.

ONNX Runtime's CUDA Gemm writes the bias into every row of the result first, by a product of its own with a column of
ones, and then reads that while it adds the product: one more write and one more read of the result. Behind a product
comes mostly a chain, an activation or a residual addition, which is one kernel and reads the result anyway:

    gelu(Gemm(x, W, bias))        ->  gelu(Gemm(x, W) + bias)
    gelu'(Gemm(x, W, bias), dy)   ->  gelu'(Gemm(x, W) + bias, dy)
    x + Gemm(y, W, bias)          ->  x + (Gemm(y, W) + bias)

The sum is added again where it is read again, backward too, so that nobody keeps it: the product alone is kept. Of half
precision, the sum is added in float32, from a float32 bias where the model casts it, and rounded to the type as the
Gemm's result was. A product that something else reads, attention say, keeps its bias.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence

import onnx
from onnx import TensorProto

from planc.graph.operators import VIEWS
from planc.training.emit.builder import HALVES, Builder, Var
from planc.training.layout.chains import is_link
from planc.training.layout.readers import Reading, read_made_again, readers_of
from planc.training.registry import attributes_of


def biases_into_chains(b: Builder, nodes: Sequence[onnx.NodeProto], kept: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes, products without the biases that chains can add; `kept` are tensors that are read after the step."""
    readers = readers_of(nodes)
    makers = {name: node for node in nodes for name in node.output if name}
    before: defaultdict[int, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        readings = _readings(b, nodes, node.output[0], readers, kept) if _has_bias(b, node) else None
        if readings:
            _add_again(b, nodes, readings, _exact(b, node.input.pop(), makers), before)
    return [made for at, node in enumerate(nodes) for made in (*before[at], node)]


def _has_bias(b: Builder, node: onnx.NodeProto) -> bool:
    """Whether the node is a product with a bias for each column, as it is."""
    if node.op_type != "Gemm" or node.domain or len(node.input) != 3 or not node.input[2]:
        return False
    y, bias, given = b.values[node.output[0]], b.values[node.input[2]], attributes_of(node)
    plain = given.get("beta", 1.0) == 1.0 and y.dtype in (TensorProto.FLOAT, *HALVES)
    return plain and bias.dtype == y.dtype and bias.shape in ((y.shape[-1],), (1, y.shape[-1]))


def _readings(
    b: Builder, nodes: Sequence[onnx.NodeProto], name: str, readers: dict[str, list[int]], kept: Collection[str]
) -> list[Reading] | None:
    """Who reads the tensor or views of it; None where one of them is no element-wise operator, or keeps no last axis."""
    found: list[Reading] = []
    width = b.values[name].shape[-1]
    pending = [name]
    while pending:
        read = pending.pop()
        if read in kept or b.values[read].shape[-1:] != (width,):
            return None
        for at in readers.get(read, ()):
            node = nodes[at]
            if node.op_type in VIEWS and node.domain in ("", "ai.onnx"):
                pending.append(node.output[0])
            elif _is_chained(b, node, read):
                found.append((at, read))
            else:
                return None
    return found


def _is_chained(b: Builder, node: onnx.NodeProto, read: str) -> bool:
    """Whether the node can be in one kernel with an addition to what it reads."""
    return is_link(b, node) and b.values[node.output[0]].shape == b.values[read].shape


def _exact(b: Builder, bias: str, makers: dict[str, onnx.NodeProto]) -> Var:
    """The float32 tensor that the bias was rounded from, or the bias."""
    maker = makers.get(bias)
    source = b.values[maker.input[0]] if maker is not None and maker.op_type == "Cast" else b.values[bias]
    return source if source.dtype == TensorProto.FLOAT else b.values[bias]


def _add_again(
    b: Builder, nodes: Sequence[onnx.NodeProto], readings: Sequence[Reading], bias: Var,
    before: defaultdict[int, list[onnx.NodeProto]],
) -> None:  # fmt: skip
    """Put the addition into every layer that reads the product, and let the readers there read the sum."""
    read_made_again(b, nodes, readings, lambda product: _sum(b, product, bias), before)


def _sum(b: Builder, product: Var, bias: Var) -> Var:
    """product + bias, rounded to the product's type; both of one half type are added as they are."""
    exact = product if product.dtype == bias.dtype else b.wide(product)
    return b.cast(b.add(exact, bias), product.dtype)
