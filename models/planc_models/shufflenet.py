"""ShuffleNet, three groups (Zhang et al., ShuffleNet: an extremely efficient convolutional network, 2018)."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

GROUPS = 3
STAGES = ((240, 4), (480, 8), (960, 4))
"""Table 1, g = 3: output channels and units of stages 2 to 4."""


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image, scale = Network(name, options.seed), options.image or 224, Scale(24, options.width or 24)
    x = net.input("input", (options.batch or 64, 3, image, image))
    x = net.conv(x, "conv1", scale(24), 3, stride=2, padding=1)
    x = net.max_pool(net.relu(net.batch_norm(x, "bn1"), "relu1"), "maxpool", 3, 2, 1)
    for stage, (channels, count) in enumerate(STAGES, 2):
        for index in range(count):
            grouped = GROUPS if (stage, index) != (2, 0) else 1
            x = _unit(net, x, f"stage{stage}.{index}", scale(channels, 4 * GROUPS), grouped, 2 if index == 0 else 1)
    return net.finish(net.linear(net.global_pool(x, "avgpool"), "fc", options.classes or 1000))


def _unit(net: Network, x: Output, layer: str, channels: int, group: int, stride: int) -> Output:
    """Figure 2: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to x, or concatenated to its pool at stride 2.

    `group` is that of the first convolution, one in the very first unit, whose input has few channels.
    """
    out, narrow = channels - (x.shape[1] if stride == 2 else 0), channels // 4
    y = net.batch_norm(net.conv(x, f"{layer}.conv1", narrow, 1, group=group), f"{layer}.bn1")
    y = _shuffle(net, net.relu(y, f"{layer}.relu1"), f"{layer}.shuffle")
    y = net.conv(y, f"{layer}.depthwise", narrow, 3, stride=stride, padding=1, group=narrow)
    y = net.batch_norm(y, f"{layer}.bn2")
    y = net.batch_norm(net.conv(y, f"{layer}.conv3", out, 1, group=GROUPS), f"{layer}.bn3")
    if stride == 1:
        return net.relu(net.add(x, y, f"{layer}.add"), f"{layer}.relu")
    pooled = net.average_pool(x, f"{layer}.pool", 3, 2, 1)
    return net.relu(net.concat([pooled, y], f"{layer}.concat"), f"{layer}.relu")


def _shuffle(net: Network, x: Output, layer: str) -> Output:
    """Channels [g, c] to [c, g], so that the next grouped convolution sees every group."""
    n, c, h, w = x.shape
    split = net.reshape(x, (n, GROUPS, c // GROUPS, h, w), layer, "channel-shuffle")
    swapped = net.transpose(split, (0, 2, 1, 3, 4), layer, "channel-shuffle")
    return net.reshape(swapped, x.shape, layer, "channel-shuffle")


FAMILY = Family({"shufflenet": Entry("ShuffleNet, three groups, channel shuffle", IMAGE, _build)})
