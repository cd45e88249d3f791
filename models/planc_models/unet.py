"""U-Net (Ronneberger, Fischer and Brox, Convolutional networks for biomedical image segmentation, 2015).

Padded convolutions with batch-norm, so that the logits have the image's size. `unet` climbs by transposed
convolutions as in the paper, `unet_bilinear` by bilinear interpolation and a 1x1 convolution.
"""

from planc.errors import UsageError
from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family
from planc_models._network import Blueprint, Network, Output


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`depth` is the number of poolings, four in the paper; `width` the channels of the first level, 64."""
    image, width, depth = options.image or 256, options.width or 64, options.depth or 4
    if image % (1 << depth):
        raise UsageError(f"{name}: --image must be a multiple of {1 << depth} for {depth} poolings, not {image}")
    net = Network(name, options.seed)
    x, skips = net.input("input", (options.batch or 8, 3, image, image)), []
    for level in range(depth):
        x = _double(net, x, f"down{level}", width << level)
        skips.append(x)
        x = net.max_pool(x, f"down{level}.pool", 2, 2)
    x = _double(net, x, "bottom", width << depth)
    for level in reversed(range(depth)):
        up = f"up{level}"
        if name == "unet":
            x = net.conv_transpose(x, f"{up}.climb", width << level, 2, 2)
        else:
            x = net.conv(net.upsample(x, f"{up}.upsample", 2), f"{up}.climb", width << level, 1, bias=True)
        x = _double(net, net.concat([skips[level], x], f"{up}.concat"), up, width << level)
    return net.finish(net.conv(x, "head", options.classes or 2, 1, bias=True))


def _double(net: Network, x: Output, layer: str, channels: int) -> Output:
    for index in (1, 2):
        x = net.conv(x, f"{layer}.conv{index}", channels, 3, padding=1)
        x = net.relu(net.batch_norm(x, f"{layer}.bn{index}"), f"{layer}.relu{index}")
    return x


TAKES = IMAGE | {"depth"}

FAMILY = Family({
    "unet": Entry("U-Net with transposed convolutions", TAKES, _build),
    "unet_bilinear": Entry("U-Net with bilinear upsampling", TAKES, _build),
})  # fmt: skip
