"""BERT base (Devlin et al., Pre-training of deep bidirectional transformers, 2019) as a masked language model."""

from onnx import TensorProto

from planc.zoo import ZooOptions
from planc_models._family import Entry, Family
from planc_models._network import Blueprint, Network, Output
from planc_models._transformer import TEXT, attention, embedding, heads

SEGMENTS = 2


def _build(name: str, options: ZooOptions) -> Blueprint:
    """Logits over the vocabulary (`classes`) at every position; the decoder shares the token embedding."""
    batch, seq, width = options.batch or 16, options.seq or 512, options.width or 768
    vocabulary = options.classes or 30522
    net = Network(name, options.seed)
    ids, segments = (net.input(n, (batch, seq), TensorProto.INT64) for n in ("input_ids", "token_type_ids"))
    words = embedding(net, ids, "embeddings.word", vocabulary, width)
    x = net.add(words, embedding(net, segments, "embeddings.segment", SEGMENTS, width), "embeddings.add")
    x = _positions(net, x, batch, seq)
    x = net.dropout(net.layer_norm(x, "embeddings.norm", 1e-12), "embeddings.dropout", 0.1)
    for index in range(options.depth or 12):
        x = _block(net, x, f"layer.{index}", batch, heads(name, width))
    x = net.linear(x, "head.transform", width, 0.02)
    x = net.layer_norm(net.gelu(x, "head.gelu"), "head.norm", 1e-12)
    inputs: list[Output | str] = [x, "embeddings.word.weight", net.zeros("head.bias", vocabulary)]
    logits = net.node("Gemm", inputs, (batch * seq, vocabulary), "head.decoder", "linear", transB=1)
    return net.finish(net.reshape(logits, (batch, seq, vocabulary), "head.decoder", "linear"))


def _positions(net: Network, x: Output, batch: int, seq: int) -> Output:
    layer, kind, width = "embeddings.position", "position-embedding", x.shape[1]
    rows = net.reshape(x, (batch, seq, width), layer, kind)
    placed = net.node("Add", [rows, net.normal(f"{layer}.weight", (seq, width), 0.02)], rows.shape, layer, kind)
    return net.reshape(placed, x.shape, layer, kind)


def _block(net: Network, x: Output, layer: str, batch: int, count: int) -> Output:
    """Post-norm attention and feed-forward, each with dropout before the residual."""
    width = x.shape[1]
    y = net.linear(x, f"{layer}.attention.qkv", 3 * width, 0.02)
    y = attention(net, y, f"{layer}.attention", batch, count, causal=False)
    y = net.dropout(net.linear(y, f"{layer}.attention.output", width, 0.02), f"{layer}.attention.dropout", 0.1)
    x = net.layer_norm(net.add(x, y, f"{layer}.attention.add"), f"{layer}.attention.norm", 1e-12)
    y = net.gelu(net.linear(x, f"{layer}.intermediate", 4 * width, 0.02), f"{layer}.gelu")
    y = net.dropout(net.linear(y, f"{layer}.output", width, 0.02), f"{layer}.output.dropout", 0.1)
    return net.layer_norm(net.add(x, y, f"{layer}.output.add"), f"{layer}.output.norm", 1e-12)


FAMILY = Family({"bert_base": Entry("BERT base, masked language model with tied decoder", TEXT, _build)})
