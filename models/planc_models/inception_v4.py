"""Inception-v4 (Szegedy et al., Inception-v4, Inception-ResNet and the impact of residual connections, 2017)."""

from collections.abc import Sequence

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network, Output

Step = tuple[int, int | tuple[int, int]]
"""Channels and kernel of one unit-stride convolution that keeps the image's size."""


class _Inception:
    """Adds the blocks of figures 3 to 8; every convolution is followed by batch-norm and ReLU."""

    def __init__(self, net: Network, scale: Scale) -> None:
        self.net, self.scale = net, scale

    def conv(
        self, x: Output, layer: str, channels: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> Output:  # fmt: skip
        kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (kernels[0] // 2, kernels[1] // 2) if same else (0, 0)
        x = self.net.conv(x, f"{layer}.conv", self.scale(channels), kernels, stride=stride, padding=padding)
        return self.net.relu(self.net.batch_norm(x, f"{layer}.bn"), f"{layer}.relu")

    def chain(self, x: Output, layer: str, steps: Sequence[Step]) -> Output:
        for index, (channels, kernel) in enumerate(steps):
            x = self.conv(x, f"{layer}.{index}", channels, kernel)
        return x

    def stem(self, x: Output) -> Output:
        """Figure 3."""
        net = self.net
        x = self.conv(x, "stem.conv1", 32, 3, 2, same=False)
        x = self.conv(x, "stem.conv2", 32, 3, same=False)
        x = self.conv(x, "stem.conv3", 64, 3)
        pooled, reduced = net.max_pool(x, "stem.pool1", 3, 2), self.conv(x, "stem.conv4", 96, 3, 2, same=False)
        x = net.concat([pooled, reduced], "stem.concat1")
        left = self.conv(self.conv(x, "stem.left1", 64, 1), "stem.left2", 96, 3, same=False)
        right = self.chain(x, "stem.right", [(64, 1), (64, (7, 1)), (64, (1, 7))])
        right = self.conv(right, "stem.right3", 96, 3, same=False)
        x = net.concat([left, right], "stem.concat2")
        reduced, pooled = self.conv(x, "stem.conv5", 192, 3, 2, same=False), net.max_pool(x, "stem.pool2", 3, 2)
        return net.concat([reduced, pooled], "stem.concat3")

    def block(self, x: Output, layer: str, pooled: int, branches: Sequence[Sequence[Step]]) -> Output:
        """Inception-A, -B: chains side by side, and an average pool with a 1x1 convolution."""
        average = self.net.average_pool(x, f"{layer}.pool", 3, 1, 1)
        parts = [self.conv(average, f"{layer}.pool_proj", pooled, 1)]
        parts += [self.chain(x, f"{layer}.branch{i}", steps) for i, steps in enumerate(branches)]
        return self.net.concat(parts, f"{layer}.concat")

    def block_c(self, x: Output, layer: str) -> Output:
        """Inception-C, whose two long branches fork at the end."""
        average = self.net.average_pool(x, f"{layer}.pool", 3, 1, 1)
        parts = [self.conv(average, f"{layer}.pool_proj", 256, 1), self.conv(x, f"{layer}.single", 256, 1)]
        short = self.conv(x, f"{layer}.short", 384, 1)
        long = self.chain(x, f"{layer}.long", [(384, 1), (448, (1, 3)), (512, (3, 1))])
        for name, trunk in (("short", short), ("long", long)):
            parts += [self.conv(trunk, f"{layer}.{name}_{h}x{w}", 256, (h, w)) for h, w in ((1, 3), (3, 1))]
        return self.net.concat(parts, f"{layer}.concat")

    def reduction(self, x: Output, layer: str, branches: Sequence[tuple[Sequence[Step], int]]) -> Output:
        """Reduction-A, -B: each chain ends in a 3x3 convolution of stride 2; beside them a max-pool."""
        parts = [self.net.max_pool(x, f"{layer}.pool", 3, 2)]
        for index, (steps, channels) in enumerate(branches):
            trunk = self.chain(x, f"{layer}.branch{index}", steps)
            parts.append(self.conv(trunk, f"{layer}.branch{index}.down", channels, 3, 2, same=False))
        return self.net.concat(parts, f"{layer}.concat")


BLOCK_A: list[list[Step]] = [[(96, 1)], [(64, 1), (96, 3)], [(64, 1), (96, 3), (96, 3)]]
BLOCK_B: list[list[Step]] = [
    [(384, 1)],
    [(192, 1), (224, (1, 7)), (256, (7, 1))],
    [(192, 1), (192, (1, 7)), (224, (7, 1)), (224, (1, 7)), (256, (7, 1))],
]


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image = Network(name, options.seed), options.image or 299
    blocks = _Inception(net, Scale(32, options.width or 32))
    x = blocks.stem(net.input("input", (options.batch or 32, 3, image, image)))
    for index in range(4):
        x = blocks.block(x, f"a{index}", 96, BLOCK_A)
    x = blocks.reduction(x, "reduction_a", [([], 384), ([(192, 1), (224, 3)], 256)])
    for index in range(7):
        x = blocks.block(x, f"b{index}", 128, BLOCK_B)
    long: list[Step] = [(256, 1), (256, (1, 7)), (320, (7, 1))]
    x = blocks.reduction(x, "reduction_b", [([(192, 1)], 192), (long, 320)])
    for index in range(3):
        x = blocks.block_c(x, f"c{index}")
    x = net.dropout(net.global_pool(x, "avgpool"), "dropout", 0.2)
    return net.finish(net.linear(x, "fc", options.classes or 1000))


FAMILY = Family({"inception_v4": Entry("Inception-v4, asymmetric convolutions", IMAGE, _build)})
