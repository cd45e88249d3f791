"""Whole networks: loss and every parameter's gradient against torch autograd in float64.

The reference executes the forward ONNX model node by node with torch functions; it shares nothing with planc's rules.
"""

from typing import Any

import numpy as np
import pytest
from support.saved_bytes import planc_saves, torch_saves
from support.torch_reference import reference, torch, without_dropout
from support.training_steps import random_batch, run_steps, state_pairs

from planc.training import Optimizer, differentiate
from planc.training.rules import GRADIENTS
from planc.zoo import ZooOptions, build_forward

SMALL: dict[str, dict[str, int]] = {
    "alexnet": {"image": 67, "width": 8},
    "vgg16": {"image": 32, "width": 4},
    "googlenet": {"image": 48, "width": 8},
    "inception_v4": {"image": 75, "width": 4},
    "resnet18": {"image": 32, "width": 8},
    "resnet50": {"image": 32, "width": 8},
    "densenet121": {"image": 32, "width": 8},
    "mobilenet_v2": {"image": 64, "width": 8},
    "squeezenet": {"image": 48, "width": 12},
    "shufflenet": {"image": 64, "width": 12},
    "unet": {"image": 32, "width": 4},
    "unet_bilinear": {"image": 32, "width": 4},
    "vit_b16": {"image": 32, "width": 64, "depth": 2},
    "bert_base": {"width": 64, "depth": 2, "seq": 16},
    "gpt2": {"width": 64, "depth": 2, "seq": 16},
    "mlp": {"width": 16},
}

FLOOR, FACTOR = 1e-5, 4.0
"""A gradient may be off by FACTOR times what torch itself loses in float32, and always by FLOOR (relative norms).

Deep narrow batch-norm networks are ill-conditioned: torch in float32 is off by some percent on them too.
"""


@pytest.mark.parametrize("name", SMALL)
def test_network_agrees_with_autograd(name: str) -> None:
    """Momentum starts at zero, so its next value is the gradient itself."""
    forward = without_dropout(build_forward(name, ZooOptions(batch=4, classes=10, **SMALL[name])).model)
    step = differentiate(forward, loss="cross-entropy", optimizer=Optimizer("momentum"))
    feeds, state = random_batch(step), state_pairs(step)
    results = run_steps(step, feeds)[0]
    loss, expected = reference(forward, feeds, torch.float64)
    single_loss, single = reference(forward, feeds, torch.float32)
    assert abs(float(results["loss"]) - loss) <= FACTOR * abs(single_loss - loss) + FLOOR * abs(loss)
    velocities = {n: following for n, following in state.items() if n.endswith(".momentum")}
    found = {n.removesuffix(".momentum"): results[following] for n, following in velocities.items()}
    assert set(found) <= set(expected)
    unexplained = set(expected) - set(found)
    assert all(not np.any(expected[n]) or expected[n].ndim == 0 or "mask" in n for n in unexplained), unexplained
    assert distance(found, expected) <= FACTOR * distance(single, expected, found) + FLOOR


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: Any = None) -> float:
    """|found - expected| / |expected| over all parameters together."""
    names = names or found
    error = sum(np.sum((found[n] - expected[n]) ** 2) for n in names)
    return float(np.sqrt(error / sum(np.sum(expected[n] ** 2) for n in names)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "alexnet", "unet", "squeezenet", "vit_b16", "gpt2"])
def test_no_more_bytes_are_saved_than_by_torch(name: str) -> None:
    forward = without_dropout(build_forward(name, ZooOptions(batch=4, classes=10, **SMALL[name])).model)
    step = differentiate(forward, loss="cross-entropy", optimizer=Optimizer("sgd"))
    assert planc_saves(step).total() <= torch_saves(forward, random_batch(step)).total()


def test_every_operator_of_the_zoo_has_a_rule() -> None:
    for name, options in SMALL.items():
        used = {node.op_type for node in build_forward(name, ZooOptions(batch=1, **options)).model.graph.node}
        assert used <= set(GRADIENTS), name
