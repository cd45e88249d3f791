"""ViT-B/16 (Dosovitskiy et al., An image is worth 16x16 words, 2021)."""

from planc.errors import UsageError
from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family
from planc_models._network import Blueprint, Network, Output
from planc_models._transformer import attention, heads

PATCH = 16


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`width` is the embedding's, 768 in the base size; `depth` the number of blocks, 12."""
    batch, image, width = options.batch or 32, options.image or 224, options.width or 768
    if image % PATCH:
        raise UsageError(f"{name}: --image must be a multiple of the patch size {PATCH}, not {image}")
    net, patches = Network(name, options.seed), (image // PATCH) ** 2
    x = net.conv(net.input("input", (batch, 3, image, image)), "patch_embed", width, PATCH, stride=PATCH, bias=True)
    x = _tokens(net, x, patches)
    for index in range(options.depth or 12):
        x = _block(net, x, f"blocks.{index}", batch, heads(name, width))
    x = net.layer_norm(x, "norm", 1e-6)
    tokens = net.reshape(x, (batch, patches + 1, width), "class_token", "slice")
    bounds = [net.ints(0), net.ints(1), net.ints(1)]
    first = net.node("Slice", [tokens, *bounds], (batch, 1, width), "class_token", "slice")
    pooled = net.reshape(first, (batch, width), "class_token", "slice")
    return net.finish(net.linear(pooled, "head", options.classes or 1000))


def _tokens(net: Network, x: Output, patches: int) -> Output:
    """Patch embeddings [N, D, H, W] as rows [N * (1 + H W), D], class token first, positions added."""
    (batch, width), layer, kind = x.shape[:2], "embed", "position-embedding"
    x = net.transpose(net.reshape(x, (batch, width, patches), layer, kind), (0, 2, 1), layer, kind)
    token = net.normal(f"{layer}.cls_token", (1, 1, width), 0.02)
    expanded = net.node("Expand", [token, net.ints(batch, 1, width)], (batch, 1, width), layer, kind)
    x = net.node("Concat", [expanded, x], (batch, patches + 1, width), layer, kind, axis=1)
    positions = net.normal(f"{layer}.pos_embed", (1, patches + 1, width), 0.02)
    x = net.node("Add", [x, positions], x.shape, layer, kind)
    return net.reshape(x, (batch * (patches + 1), width), layer, kind)


def _block(net: Network, x: Output, layer: str, batch: int, count: int) -> Output:
    width = x.shape[1]
    y = net.linear(net.layer_norm(x, f"{layer}.norm1", 1e-6), f"{layer}.attn.qkv", 3 * width)
    y = attention(net, y, f"{layer}.attn", batch, count, causal=False)
    x = net.add(x, net.linear(y, f"{layer}.attn.proj", width), f"{layer}.attn.add")
    y = net.linear(net.layer_norm(x, f"{layer}.norm2", 1e-6), f"{layer}.mlp.fc1", 4 * width)
    y = net.linear(net.gelu(y, f"{layer}.mlp.act"), f"{layer}.mlp.fc2", width)
    return net.add(x, y, f"{layer}.mlp.add")


FAMILY = Family({"vit_b16": Entry("Vision Transformer, base size, 16x16 patches", IMAGE | {"depth"}, _build)})
