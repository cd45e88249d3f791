"""MobileNetV2 (Sandler et al., Inverted residuals and linear bottlenecks, 2018)."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2: expansion, channels, repetitions, stride of the first."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image, scale = Network(name, options.seed), options.image or 224, Scale(32, options.width or 32)
    x = net.input("input", (options.batch or 64, 3, image, image))
    x = _unit(net, x, "conv1", scale(32), 3, 2)
    for stage, (expansion, channels, count, stride) in enumerate(STAGES, 1):
        for index in range(count):
            step = stride if index == 0 else 1
            x = _inverted_residual(net, x, f"stage{stage}.{index}", expansion, scale(channels), step)
    x = _unit(net, x, "conv_last", scale(1280), 1, 1)
    x = net.dropout(net.global_pool(x, "avgpool"), "dropout", 0.2)
    return net.finish(net.linear(x, "classifier", options.classes or 1000))


def _unit(net: Network, x: Output, layer: str, channels: int, kernel: int, stride: int, group: int = 1) -> Output:
    """Convolution, batch-norm, ReLU6."""
    x = net.conv(x, f"{layer}.conv", channels, kernel, stride=stride, padding=kernel // 2, group=group)
    return net.relu6(net.batch_norm(x, f"{layer}.bn"), f"{layer}.relu6")


def _inverted_residual(net: Network, x: Output, layer: str, expansion: int, channels: int, stride: int) -> Output:
    wide = x.shape[1] * expansion
    y = _unit(net, x, f"{layer}.expand", wide, 1, 1) if expansion > 1 else x
    y = _unit(net, y, f"{layer}.depthwise", wide, 3, stride, group=wide)
    y = net.batch_norm(net.conv(y, f"{layer}.project.conv", channels, 1), f"{layer}.project.bn")
    return net.add(x, y, f"{layer}.add") if y.shape == x.shape else y


FAMILY = Family({"mobilenet_v2": Entry("MobileNetV2, depthwise convolutions", IMAGE, _build)})
