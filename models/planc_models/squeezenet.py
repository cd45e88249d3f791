"""SqueezeNet 1.0 (Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016)."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

SQUEEZES = (16, 16, 32, 32, 48, 48, 64, 64)
"""Squeeze channels of fire2 to fire9; each expands to four times as many 1x1 and as many 3x3 channels."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image, scale = Network(name, options.seed), options.image or 224, Scale(96, options.width or 96)
    x = net.input("input", (options.batch or 64, 3, image, image))
    x = net.max_pool(_conv(net, x, "conv1", scale(96), 7, 2, 0), "pool1", 3, 2, ceil=True)
    for number, squeeze in enumerate(SQUEEZES, 2):
        x = _fire(net, x, f"fire{number}", scale(squeeze))
        if number in (4, 8):
            x = net.max_pool(x, f"pool{number}", 3, 2, ceil=True)
    x = _conv(net, net.dropout(x, "dropout", 0.5), "conv10", options.classes or 1000, 1, 1, 0)
    return net.finish(net.global_pool(x, "avgpool"))


def _conv(net: Network, x: Output, layer: str, channels: int, kernel: int, stride: int, padding: int) -> Output:
    x = net.conv(x, f"{layer}.conv", channels, kernel, stride=stride, padding=padding, bias=True)
    return net.relu(x, f"{layer}.relu")


def _fire(net: Network, x: Output, layer: str, squeeze: int) -> Output:
    x = _conv(net, x, f"{layer}.squeeze", squeeze, 1, 1, 0)
    ones = _conv(net, x, f"{layer}.1x1", 4 * squeeze, 1, 1, 0)
    threes = _conv(net, x, f"{layer}.3x3", 4 * squeeze, 3, 1, 1)
    return net.concat([ones, threes], f"{layer}.concat")


FAMILY = Family({"squeezenet": Entry("SqueezeNet 1.0", IMAGE, _build)})
