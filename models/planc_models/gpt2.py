"""GPT-2 (Radford et al., Language models are unsupervised multitask learners, 2019)."""

import math

from onnx import TensorProto

from planc.zoo import ZooOptions
from planc_models._family import Entry, Family
from planc_models._network import Blueprint, Network, Output
from planc_models._transformer import TEXT, attention, embedding, heads


def _build(name: str, options: ZooOptions) -> Blueprint:
    width = options.width or 768
    batch, seq, depth = options.batch or 8, options.seq or 1024, options.depth or 12
    vocabulary = options.classes or 50257
    net = Network(name, options.seed)
    ids = net.input("input_ids", (batch, seq), TensorProto.INT64)
    x = embedding(net, ids, "wte", vocabulary, width)
    positions = net.reshape(x, (batch, seq, width), "wpe", "position-embedding")
    x = net.add(positions, net.normal("wpe.weight", (seq, width), 0.01), "wpe")
    x = net.reshape(x, (batch * seq, width), "wpe", "position-embedding")
    for index in range(depth):
        x = _block(net, x, f"h.{index}", batch, heads(name, width), depth)
    x = net.layer_norm(x, "ln_f")
    logits = net.node("Gemm", [x, "wte.weight"], (batch * seq, vocabulary), "lm_head", "linear", transB=1)
    return net.finish(net.reshape(logits, (batch, seq, vocabulary), "lm_head", "linear"))


def _block(net: Network, x: Output, layer: str, batch: int, count: int, depth: int) -> Output:
    """Pre-norm attention and MLP; residual projections are initialised 1/sqrt(2 depth) smaller (section 2.3)."""
    width, small = x.shape[1], 0.02 / math.sqrt(2 * depth)
    y = net.layer_norm(x, f"{layer}.ln_1")
    y = net.linear(y, f"{layer}.attn.c_attn", 3 * width, 0.02)
    y = attention(net, y, f"{layer}.attn", batch, count, causal=True)
    x = net.add(x, net.linear(y, f"{layer}.attn.c_proj", width, small), f"{layer}.attn.add")
    y = net.layer_norm(x, f"{layer}.ln_2")
    y = net.gelu(net.linear(y, f"{layer}.mlp.c_fc", 4 * width, 0.02), f"{layer}.mlp.act", "tanh")
    return net.add(x, net.linear(y, f"{layer}.mlp.c_proj", width, small), f"{layer}.mlp.add")


FAMILY = Family({"gpt2": Entry("GPT-2: 12 layers, width 768, 1024 tokens by default; tied embedding", TEXT, _build)})
