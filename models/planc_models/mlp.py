"""A multilayer perceptron on flat features."""

from planc.zoo import ZooOptions
from planc_models._family import Entry, Family
from planc_models._network import Blueprint, Network


def _build(name: str, options: ZooOptions) -> Blueprint:
    """`depth` dense layers in all (three by default), the hidden ones `width` wide with ReLU, as are the features."""
    net, width = Network(name, options.seed), options.width or 1024
    x = net.input("input", (options.batch or 64, width))
    for index in range((options.depth or 3) - 1):
        x = net.relu(net.linear(x, f"fc{index}", width, (2 / width) ** 0.5), f"relu{index}")
    return net.finish(net.linear(x, "head", options.classes or 10))


FAMILY = Family({"mlp": Entry("Multilayer perceptron", frozenset({"depth", "width"}), _build)})
