"""GoogLeNet (Szegedy et al., Going deeper with convolutions, 2015), without the auxiliary classifiers."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Table 1: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image, scale = Network(name, options.seed), options.image or 224, Scale(64, options.width or 64)
    x = net.input("input", (options.batch or 64, 3, image, image))
    x = _conv(net, x, "conv1", scale(64), 7, 2)
    x = net.local_response_norm(net.max_pool(x, "pool1", 3, 2, ceil=True), "norm1")
    x = _conv(net, _conv(net, x, "conv2_reduce", scale(64), 1), "conv2", scale(192), 3)
    x = net.max_pool(net.local_response_norm(x, "norm2"), "pool2", 3, 2, ceil=True)
    for module, channels in MODULES.items():
        x = _inception(net, x, f"inception_{module}", [scale(c) for c in channels])
        if module in ("3b", "4e"):
            x = net.max_pool(x, f"pool{module[0]}", 3, 2, ceil=True)
    x = net.dropout(net.global_pool(x, "avgpool"), "dropout", 0.4)
    return net.finish(net.linear(x, "fc", options.classes or 1000))


def _conv(net: Network, x: Output, layer: str, channels: int, kernel: int, stride: int = 1) -> Output:
    x = net.conv(x, f"{layer}.conv", channels, kernel, stride=stride, padding=kernel // 2, bias=True)
    return net.relu(x, f"{layer}.relu")


def _inception(net: Network, x: Output, layer: str, channels: list[int]) -> Output:
    one, three_reduce, three, five_reduce, five, projection = channels
    branches = [
        _conv(net, x, f"{layer}.1x1", one, 1),
        _conv(net, _conv(net, x, f"{layer}.3x3_reduce", three_reduce, 1), f"{layer}.3x3", three, 3),
        _conv(net, _conv(net, x, f"{layer}.5x5_reduce", five_reduce, 1), f"{layer}.5x5", five, 5),
        _conv(net, net.max_pool(x, f"{layer}.pool", 3, 1, 1), f"{layer}.pool_proj", projection, 1),
    ]
    return net.concat(branches, f"{layer}.concat")


FAMILY = Family({"googlenet": Entry("GoogLeNet (Inception v1), no auxiliary classifiers", IMAGE, _build)})
