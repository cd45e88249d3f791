"""VGG-16 and VGG-19 (Simonyan and Zisserman, Very deep convolutional networks, 2015), configurations D and E."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network

STAGES = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def _build(name: str, options: ZooOptions) -> Blueprint:
    net, image, scale = Network(name, options.seed), options.image or 224, Scale(64, options.width or 64)
    x = net.input("input", (options.batch or 64, 3, image, image))
    for stage, (count, channels) in enumerate(zip(STAGES[name], CHANNELS, strict=True), 1):
        for index in range(1, count + 1):
            x = net.conv(x, f"conv{stage}_{index}", scale(channels), 3, padding=1, bias=True)
            x = net.relu(x, f"relu{stage}_{index}")
        x = net.max_pool(x, f"pool{stage}", 2, 2)
    x = net.flatten(x, "flatten")
    for index in (6, 7):
        x = net.relu(net.linear(x, f"fc{index}", scale(4096)), f"relu{index}")
        x = net.dropout(x, f"drop{index}", 0.5)
    return net.finish(net.linear(x, "fc8", options.classes or 1000))


FAMILY = Family({name: Entry(f"VGG-{name[3:]}", IMAGE, _build) for name in STAGES})
