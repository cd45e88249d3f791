"""Llama (Touvron et al., LLaMA: Open and efficient foundation language models, 2023; grouped queries as in Llama 2).

Pre-norm by RMS-norm, rotary embeddings (Su et al., RoFormer, 2021), gated SiLU; no bias anywhere, untied output.
"""

import numpy as np
from onnx import TensorProto

from planc.errors import UsageError
from planc.zoo import ZooOptions
from planc_models._family import Entry, Family
from planc_models._network import Blueprint, Network, Output
from planc_models._transformer import HEAD, TEXT, embedding, heads

OPSET = 23
"""The first with Attention and RMSNormalization."""

GROUP = 4
"""Heads of queries that share one of keys and values."""

_BASE = 10_000.0
"""Base of the rotary embedding's wavelengths."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`width` 1,024 in 16 heads on four, `depth` 24, feed-forward 2.75 times as wide: 0.4 thousand million parameters."""
    width, depth, vocabulary = options.width or 1024, options.depth or 24, options.classes or 32000
    batch, seq = options.batch or 8, options.seq or 1024
    if heads(name, width) % GROUP:
        raise UsageError(f"{name}: --width must be a multiple of {HEAD * GROUP}, whole groups of heads, not {width}")
    net = Network(name, options.seed, OPSET)
    x = embedding(net, net.input("input_ids", (batch, seq), TensorProto.INT64), "embed_tokens", vocabulary, width)
    for index in range(depth):
        x = _block(net, x, f"layers.{index}", batch)
    x = _norm(net, x, "norm")
    logits = net.linear(x, "lm_head", vocabulary, 0.02, bias=False)
    return net.finish(net.reshape(logits, (batch, seq, vocabulary), "lm_head", "linear"))


def _norm(net: Network, x: Output, layer: str) -> Output:
    inputs: list[Output | str] = [x, net.ones(f"{layer}.weight", x.shape[-1])]
    return net.node("RMSNormalization", inputs, x.shape, layer, "rms-norm", axis=-1, epsilon=1e-6)


def _block(net: Network, x: Output, layer: str, batch: int) -> Output:
    width = x.shape[1]
    y = _attention(net, _norm(net, x, f"{layer}.input_norm"), f"{layer}.attn", batch)
    x = net.add(x, net.linear(y, f"{layer}.attn.o_proj", width, 0.02, bias=False), f"{layer}.attn.add")
    y, inner = _norm(net, x, f"{layer}.post_norm"), width * 11 // 4
    gate, up = (net.linear(y, f"{layer}.mlp.{part}_proj", inner, 0.02, bias=False) for part in ("gate", "up"))
    kind = "silu"
    sigmoid = net.node("Sigmoid", [gate], gate.shape, f"{layer}.mlp.act", kind)
    y = net.node("Mul", [gate, sigmoid], gate.shape, f"{layer}.mlp.act", kind)
    y = net.node("Mul", [y, up], up.shape, f"{layer}.mlp.act", kind)
    return net.add(x, net.linear(y, f"{layer}.mlp.down_proj", width, 0.02, bias=False), f"{layer}.mlp.add")


def _attention(net: Network, x: Output, layer: str, batch: int) -> Output:
    """Causal attention, each head of keys and values read by `GROUP` heads of queries."""
    rows, width = x.shape
    seq, count = rows // batch, width // HEAD
    shares = {"q": count, "k": count // GROUP, "v": count // GROUP}
    made = {}
    for part, own in shares.items():
        y = net.linear(x, f"{layer}.{part}_proj", own * HEAD, 0.02, bias=False)
        y = net.reshape(y, (batch, seq, own, HEAD), layer, "attention")
        y = _rotated(net, y, layer) if part != "v" else y
        made[part] = net.reshape(y, (batch, seq, own * HEAD), layer, "attention")
    y = net.node(
        "Attention", [*made.values()], (batch, seq, width), layer, "attention",
        is_causal=1, q_num_heads=count, kv_num_heads=count // GROUP,
    )  # fmt: skip
    return net.reshape(y, (rows, width), layer, "attention")


def _rotated(net: Network, x: Output, layer: str) -> Output:
    """x cos + rotated half of x sin, the angle by position and place in the head; x [B, S, H, D]."""
    kind, (batch, seq, count, head) = "attention", x.shape
    angles = np.outer(np.arange(seq), _BASE ** (-np.arange(0, head, 2) / head)).astype(np.float32)
    wide = np.concatenate([angles, angles], 1).reshape(1, seq, 1, head)
    cosine, sine = (net.initializer(f"rotary.{n}", f(wide)) for n, f in (("cos", np.cos), ("sin", np.sin)))
    half = (batch, seq, count, head // 2)
    low = net.node("Slice", [x, net.ints(0), net.ints(head // 2), net.ints(3)], half, layer, kind)
    high = net.node("Slice", [x, net.ints(head // 2), net.ints(head), net.ints(3)], half, layer, kind)
    turned = net.node("Concat", [net.node("Neg", [high], half, layer, kind), low], x.shape, layer, kind, axis=3)
    straight = net.node("Mul", [x, cosine], x.shape, layer, kind)
    return net.node("Add", [straight, net.node("Mul", [turned, sine], x.shape, layer, kind)], x.shape, layer, kind)


FAMILY = Family({"llama": Entry("Llama-like: 24 layers, width 1024, 16 heads on 4, 1024 tokens", TEXT, _build)})
