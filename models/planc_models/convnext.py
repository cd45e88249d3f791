"""ConvNeXt (Liu et al., A ConvNet for the 2020s, 2022), without stochastic depth."""

import numpy as np

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

DEPTHS, CHANNELS = (3, 3, 9, 3), (96, 192, 384, 768)
"""Blocks and channels of the four stages of the tiny size."""

_SCALE = 1e-6
"""What the last factor of a block begins with (section 2.6 names it layer scale)."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`width` is the channels of the first stage, 96."""
    scale = Scale(CHANNELS[0], options.width or CHANNELS[0])
    net, image = Network(name, options.seed), options.image or 224
    x = net.input("input", (options.batch or 32, 3, image, image))
    for stage, (depth, channels) in enumerate(zip(DEPTHS, CHANNELS, strict=True)):
        before = f"downsample.{stage}"
        if stage:
            x = _image(net, net.layer_norm(_rows(net, x, before), f"{before}.norm", 1e-6), x.shape, before)
        size = 2 if stage else 4
        x = net.conv(x, f"{before}.conv", scale(channels), size, stride=size, bias=True)
        if not stage:
            x = _image(net, net.layer_norm(_rows(net, x, before), f"{before}.norm", 1e-6), x.shape, before)
        for index in range(depth):
            x = _block(net, x, f"stages.{stage}.{index}")
    x = net.layer_norm(net.global_pool(x, "pool"), "norm", 1e-6)
    return net.finish(net.linear(x, "head", options.classes or 1000))


def _rows(net: Network, x: Output, layer: str) -> Output:
    """[N, C, H, W] as rows [N H W, C]."""
    batch, channels, height, width = x.shape
    last = net.transpose(x, (0, 2, 3, 1), f"{layer}.rows", "transpose")
    return net.reshape(last, (batch * height * width, channels), f"{layer}.rows", "transpose")


def _image(net: Network, x: Output, shape: tuple[int, ...], layer: str) -> Output:
    """Rows back as [N, C, H, W]."""
    batch, channels, height, width = shape
    last = net.reshape(x, (batch, height, width, channels), f"{layer}.image", "transpose")
    return net.transpose(last, (0, 3, 1, 2), f"{layer}.image", "transpose")


def _block(net: Network, x: Output, layer: str) -> Output:
    channels = x.shape[1]
    y = net.conv(x, f"{layer}.dwconv", channels, 7, padding=3, group=channels, bias=True)
    y = net.layer_norm(_rows(net, y, layer), f"{layer}.norm", 1e-6)
    y = net.gelu(net.linear(y, f"{layer}.pwconv1", 4 * channels), f"{layer}.act")
    y = net.linear(y, f"{layer}.pwconv2", channels)
    gamma = net.parameter(f"{layer}.gamma", np.full(channels, _SCALE, np.float32))
    y = net.node("Mul", [y, gamma], y.shape, f"{layer}.scale", "scale")
    return net.add(x, _image(net, y, x.shape, layer), f"{layer}.add")


FAMILY = Family({"convnext_tiny": Entry("ConvNeXt, tiny size, without stochastic depth", IMAGE, _build)})
