"""AlexNet (Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional networks, 2012)."""

from planc.zoo import ZooOptions
from planc_models._family import IMAGE, Entry, Family, Scale
from planc_models._network import Blueprint, Network


def _build(name: str, options: ZooOptions) -> Blueprint:
    """Five convolutions, three of them in two groups as on the paper's two GPUs, and three dense layers."""
    net, image, scale = Network(name, options.seed), options.image or 227, Scale(96, options.width or 96)
    x = net.input("input", (options.batch or 128, 3, image, image))
    x = net.relu(net.conv(x, "conv1", scale(96, 2), 11, stride=4, bias=True), "relu1")
    x = net.max_pool(net.local_response_norm(x, "norm1"), "pool1", 3, 2)
    x = net.relu(net.conv(x, "conv2", scale(256, 2), 5, padding=2, group=2, bias=True), "relu2")
    x = net.max_pool(net.local_response_norm(x, "norm2"), "pool2", 3, 2)
    x = net.relu(net.conv(x, "conv3", scale(384, 2), 3, padding=1, bias=True), "relu3")
    x = net.relu(net.conv(x, "conv4", scale(384, 2), 3, padding=1, group=2, bias=True), "relu4")
    x = net.relu(net.conv(x, "conv5", scale(256, 2), 3, padding=1, group=2, bias=True), "relu5")
    x = net.flatten(net.max_pool(x, "pool5", 3, 2), "flatten")
    for index in (6, 7):
        x = net.relu(net.linear(x, f"fc{index}", scale(4096)), f"relu{index}")
        x = net.dropout(x, f"drop{index}", 0.5)
    return net.finish(net.linear(x, "fc8", options.classes or 1000))


FAMILY = Family({"alexnet": Entry("AlexNet, with local response normalisation and dropout", IMAGE, _build)})
