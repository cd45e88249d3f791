"""ResNet for images (He et al., Deep residual learning for image recognition, 2016).

`resnet18/34/50/101/152` are table 1 of the paper. `resnet --depth D` takes 18, 34 and, in the bottleneck form, any
depth that the literature's counting rule allows: the stem and the classifier count one layer each and a block three,
so D = 2 + 3 * blocks; 834 blocks give the 2,504 layers of deep memory-planning experiments. The blocks of an unlisted
depth are spread over the four stages in the proportion of ResNet-152 (3 : 8 : 36 : 3), at least one a stage.
`resnet_deep --depth D` has the stages of SuperNeurons' networks (Wang et al. 2018) instead: 6, 32, any number, 6.
"""

from planc.errors import UsageError
from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family
from planc_models._network import Blueprint, Network, Output

BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


DEEP = (6, 32, 6)
"""Blocks of the first, second and last stage of SuperNeurons' networks."""


def deep_stages(depth: int) -> tuple[int, ...]:
    """SuperNeurons' stages of a ResNet of `depth` layers. Raises UsageError for an impossible depth."""
    blocks, rest = divmod(depth - 2, 3)
    if rest or blocks <= sum(DEEP):
        raise UsageError(f"no deep ResNet has {depth} layers: --depth must be 3 * blocks + 2, blocks > {sum(DEEP)}")
    return (*DEEP[:2], blocks - sum(DEEP), *DEEP[2:])


def stages(depth: int) -> tuple[int, ...]:
    """Blocks in each of the four stages of a ResNet of `depth` layers. Raises UsageError for an impossible depth."""
    if depth in BASIC or depth in BOTTLENECK:
        return BASIC.get(depth) or BOTTLENECK[depth]
    blocks, rest = divmod(depth - 2, 3)
    if rest or blocks < 4:
        raise UsageError(f"no ResNet has {depth} layers: --depth must be 18, 34, or 3 * blocks + 2, blocks >= 4")
    shares = BOTTLENECK[152]
    spread = [max(1, blocks * share // sum(shares)) for share in shares]
    spread[2] += blocks - sum(spread)
    return tuple(spread)


def _build(name: str, options: ZooOptions) -> Blueprint:
    if name == "resnet_deep":
        return _network(name, options, deep_stages(options.depth or 1_001), bottleneck=True)
    depth = (options.depth or 50) if name == "resnet" else int(name.removeprefix("resnet"))
    return _network(name, options, stages(depth), bottleneck=depth not in BASIC)


def _network(name: str, options: ZooOptions, blocks: tuple[int, ...], bottleneck: bool) -> Blueprint:
    image, width = options.image or 224, options.width or 64
    net = Network(name, options.seed)
    x = net.input("input", (options.batch or 32, 3, image, image))
    x = net.conv(x, "conv1", width, 7, stride=2, padding=3)
    x = net.relu(net.batch_norm(x, "bn1"), "relu")
    x = net.max_pool(x, "maxpool", 3, 2, 1)
    for stage, count in enumerate(blocks, 1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _block(net, x, f"layer{stage}.{index}", width << (stage - 1), stride, bottleneck)
    logits = net.linear(net.global_pool(x, "avgpool"), "fc", options.classes or 1000)
    return net.finish(logits)


def _block(net: Network, x: Output, layer: str, width: int, stride: int, bottleneck: bool) -> Output:
    """One residual block; the stride is at the 3x3 convolution, as in torchvision's networks (ResNet v1.5)."""
    channels = 4 * width if bottleneck else width
    plan = [(width, 1, 1), (width, 3, stride), (channels, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
    y = x
    for position, (out, kernel, step) in enumerate(plan, 1):
        y = net.conv(y, f"{layer}.conv{position}", out, kernel, stride=step, padding=kernel // 2)
        y = net.batch_norm(y, f"{layer}.bn{position}")
        if position < len(plan):
            y = net.relu(y, f"{layer}.relu{position}")
    if stride != 1 or x.shape[1] != channels:
        x = net.conv(x, f"{layer}.downsample.0", channels, 1, stride=stride)
        x = net.batch_norm(x, f"{layer}.downsample.1")
    return net.relu(net.add(y, x, f"{layer}.add"), f"{layer}.relu")


FAMILY = Family(
    {f"resnet{depth}": Entry(f"ResNet-{depth}, basic blocks", IMAGE, _build) for depth in BASIC}
    | {f"resnet{depth}": Entry(f"ResNet-{depth}, bottleneck blocks", IMAGE, _build) for depth in BOTTLENECK}
    | {"resnet": Entry("ResNet of any --depth = 3 * blocks + 2 (bottleneck), or 18, 34", IMAGE | {"depth"}, _build)}
    | {"resnet_deep": Entry("ResNet of 6, 32, n and 6 blocks, --depth = 3 * blocks + 2", IMAGE | {"depth"}, _build)}
)
