"""DenseNet-121 (Huang et al., Densely connected convolutional networks, 2017), DenseNet-BC with compression 1/2."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family
from planc_models._network import Blueprint, Network, Output

BLOCKS = {"densenet121": (6, 12, 24, 16)}


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`width` is the stem's channels, 64 in the paper; the growth rate is half of it."""
    net, image, width = Network(name, options.seed), options.image or 224, options.width or 64
    growth = max(1, width // 2)
    x = net.input("input", (options.batch or 32, 3, image, image))
    x = net.conv(x, "conv0", width, 7, stride=2, padding=3)
    x = net.max_pool(net.relu(net.batch_norm(x, "norm0"), "relu0"), "pool0", 3, 2, 1)
    for block, count in enumerate(BLOCKS[name], 1):
        for index in range(1, count + 1):
            grown = _dense_layer(net, x, f"denseblock{block}.denselayer{index}", growth)
            x = net.concat([x, grown], f"denseblock{block}.denselayer{index}.concat")
        if block < len(BLOCKS[name]):
            x = _transition(net, x, f"transition{block}")
    x = net.relu(net.batch_norm(x, "norm5"), "relu5")
    return net.finish(net.linear(net.global_pool(x, "avgpool"), "classifier", options.classes or 1000))


def _dense_layer(net: Network, x: Output, layer: str, growth: int) -> Output:
    """BN-ReLU-Conv(1x1) to 4 * growth channels, then BN-ReLU-Conv(3x3) to `growth`."""
    x = net.relu(net.batch_norm(x, f"{layer}.norm1"), f"{layer}.relu1")
    x = net.conv(x, f"{layer}.conv1", 4 * growth, 1)
    x = net.relu(net.batch_norm(x, f"{layer}.norm2"), f"{layer}.relu2")
    return net.conv(x, f"{layer}.conv2", growth, 3, padding=1)


def _transition(net: Network, x: Output, layer: str) -> Output:
    x = net.relu(net.batch_norm(x, f"{layer}.norm"), f"{layer}.relu")
    return net.average_pool(net.conv(x, f"{layer}.conv", x.shape[1] // 2, 1), f"{layer}.pool", 2, 2)


FAMILY = Family({"densenet121": Entry("DenseNet-121", IMAGE, _build)})
