"""How far a training graph's loss and gradients are from torch autograd in float64, and torch in float32 from the same.

The reference executes the forward ONNX model node by node with torch functions; it shares nothing with planc's rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from planc.training import differentiate
from support.torch_reference import reference, torch, without_dropout
from support.training_steps import Arrays, random_batch, run_steps, state_pairs
from support.zoo_networks import MOMENTUM, small_forward, small_step

NETWORKS: dict[str, dict[str, int]] = {
    "alexnet": {}, "vgg16": {}, "googlenet": {}, "inception_v4": {"image": 107}, "resnet18": {"image": 64},
    "resnet50": {"image": 64},
    "densenet121": {"image": 64}, "mobilenet_v2": {"image": 64, "width": 8}, "squeezenet": {},
    "shufflenet": {"image": 64}, "unet": {}, "unet_bilinear": {}, "vit_b16": {}, "bert_base": {}, "gpt2": {},
    "mlp": {},
}  # fmt: skip
"""One of every family, larger than elsewhere where that makes it better conditioned."""


@dataclass(frozen=True)
class Errors:
    """Relative errors: of the loss, and of all gradients together, |found - exact| / |exact| in the 2-norm."""

    loss: float
    gradients: float


def step_without_dropout(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The forward model and its training graph."""
    forward = small_forward(name, **NETWORKS[name]).model
    if not NETWORKS[name] and all(node.op_type != "Dropout" for node in forward.graph.node):
        return forward, small_step(name, MOMENTUM)
    return without_dropout(forward), differentiate(forward, loss="cross-entropy", optimizer=MOMENTUM)


def gradient_errors(name: str) -> tuple[Errors, Errors]:
    """planc's errors and those of torch in float32. Momentum starts at zero, so its next value is the gradient.

    Raises ValueError for a parameter that torch gives a gradient and the training graph does not train.
    """
    forward, step = step_without_dropout(name)
    feeds, state = random_batch(step), state_pairs(step)
    results = run_steps(step, feeds)[0]
    loss, exact = reference(forward, feeds, torch.float64)
    single_loss, single = reference(forward, feeds, torch.float32)
    velocities = {n: following for n, following in state.items() if n.endswith(".momentum")}
    found = {n.removesuffix(".momentum"): results[following] for n, following in velocities.items()}
    missed = [n for n in set(exact) - set(found) if np.any(exact[n]) and exact[n].ndim and "mask" not in n]
    if missed:
        raise ValueError(f"{name}: {missed} are not trained")
    return (
        Errors(abs(float(results["loss"]) - loss) / abs(loss), _distance(found, exact, found)),
        Errors(abs(single_loss - loss) / abs(loss), _distance(single, exact, found)),
    )


def _distance(found: Arrays, exact: Arrays, names: Iterable[str]) -> float:
    names = list(names)
    error = sum(np.sum((found[n] - exact[n]) ** 2) for n in names)
    return float(np.sqrt(error / sum(np.sum(exact[n] ** 2) for n in names)))
