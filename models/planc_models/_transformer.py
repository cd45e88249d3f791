"""Blocks that the transformer families share; activations are [batch * seq, width] throughout."""

import math

import numpy as np

from planc.errors import UsageError
from planc_models._network import Network, Output

HEAD = 64
"""Width of one attention head in every published size of GPT-2, BERT and ViT."""

TEXT = frozenset({"depth", "width", "seq"})
"""Options of a network on token sequences."""

MASKED = -1e9
"""Added to a score that must not be attended to; finite, so that no row of the softmax can become NaN."""


def heads(name: str, width: int) -> int:
    """Attention heads of a network of `width`. Raises UsageError when the width is no multiple of a head."""
    if width % HEAD:
        raise UsageError(f"{name}: --width must be a multiple of {HEAD}, the width of an attention head, not {width}")
    return width // HEAD


def attention(net: Network, qkv: Output, layer: str, batch: int, count: int, causal: bool) -> Output:
    """Scaled dot-product attention (Vaswani et al., 2017) in `count` heads.

    `qkv` holds the queries, keys and values side by side, [batch * seq, 3 * width].
    """
    kind, rows, width = "attention", qkv.shape[0], qkv.shape[1] // 3
    seq, head = rows // batch, width // count
    names = [f"{layer}.query", f"{layer}.key", f"{layer}.value"]
    net.node("Split", [qkv], (rows, width), layer, kind, names[1:], axis=1, num_outputs=3)
    first = net.nodes[-1].output[0]
    split = [Output(name, (rows, width)) for name in (first, *names[1:])]
    query, key, value = (net.reshape(t, (batch, seq, count, head), layer, kind) for t in split)
    query = net.node("Mul", [query, net.scalar(1 / math.sqrt(head))], query.shape, layer, kind)
    query, value = (net.transpose(t, (0, 2, 1, 3), layer, kind) for t in (query, value))
    key = net.transpose(key, (0, 2, 3, 1), layer, kind)
    scores = net.node("MatMul", [query, key], (batch, count, seq, seq), layer, kind)
    if causal:
        mask = np.triu(np.full((seq, seq), MASKED, np.float32), 1)
        scores = net.node("Add", [scores, net.initializer("causal_mask", mask)], scores.shape, layer, kind)
    weights = net.node("Softmax", [scores], scores.shape, layer, kind, axis=-1)
    mixed = net.node("MatMul", [weights, value], (batch, count, seq, head), layer, kind)
    return net.reshape(net.transpose(mixed, (0, 2, 1, 3), layer, kind), (rows, width), layer, kind)


def embedding(net: Network, ids: Output, layer: str, rows: int, width: int, deviation: float = 0.02) -> Output:
    """Rows of a table [rows, width] at the integer `ids` [batch, seq], as [batch * seq, width]."""
    table = net.normal(f"{layer}.weight", (rows, width), deviation)
    count = math.prod(ids.shape)
    flat = net.reshape(ids, (count,), layer, "embedding")
    return net.node("Gather", [table, flat], (count, width), layer, "embedding", axis=0)
