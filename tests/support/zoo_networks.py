"""Every network of the zoo at the size that tests use: small, yet with every kind of layer it has."""

from functools import cache

import onnx

from planc.training import Optimizer, differentiate
from planc.zoo import ForwardModel, ZooOptions, build_forward

SMALL: dict[str, dict[str, int]] = {
    "alexnet": {"image": 67, "width": 8},
    "vgg16": {"image": 32, "width": 4},
    "vgg19": {"image": 32, "width": 4},
    "googlenet": {"image": 48, "width": 8},
    "inception_v4": {"image": 75, "width": 4},
    "resnet18": {"image": 32, "width": 8},
    "resnet34": {"image": 32, "width": 8},
    "resnet50": {"image": 32, "width": 8},
    "resnet101": {"image": 32, "width": 4},
    "resnet152": {"image": 32, "width": 4},
    "resnet": {"image": 32, "width": 4, "depth": 56},
    "resnet_deep": {"image": 32, "width": 2, "depth": 137},
    "densenet121": {"image": 32, "width": 8},
    "mobilenet_v2": {"image": 32, "width": 4},
    "squeezenet": {"image": 48, "width": 12},
    "shufflenet": {"image": 32, "width": 12},
    "unet": {"image": 32, "width": 4},
    "unet_bilinear": {"image": 32, "width": 4},
    "vit_b16": {"image": 32, "width": 64, "depth": 2},
    "bert_base": {"width": 64, "depth": 2, "seq": 16},
    "gpt2": {"width": 64, "depth": 2, "seq": 16},
    "llama": {"width": 256, "depth": 1, "seq": 8},
    "convnext_tiny": {"image": 32, "width": 8},
    "mlp": {"width": 64},
}


MOMENTUM = Optimizer("momentum", learning_rate=0.01)


def small_forward(name: str, **more: int) -> ForwardModel:
    """The forward model of zoo network `name`, batch 4 and ten classes unless `more` says otherwise."""
    return build_forward(name, ZooOptions(**({"batch": 4, "classes": 10} | SMALL[name] | more)))


@cache
def small_step(name: str, optimizer: Optimizer) -> onnx.ModelProto:
    """Its training graph; shared between tests, so not to be changed."""
    built = small_forward(name)
    return differentiate(built.model, loss=built.loss, optimizer=optimizer, parameters=built.parameters)
