"""Whole networks: loss and every parameter's gradient against torch autograd in float64.

The reference executes the forward ONNX model node by node with torch functions; it shares nothing with planc's rules.
"""

from typing import Any

import numpy as np
import onnx
import pytest
from support.saved_bytes import planc_saves, torch_saves
from support.torch_reference import reference, torch, without_dropout
from support.training_steps import random_batch, run_steps, state_pairs
from support.zoo_networks import MOMENTUM, SMALL, small_forward, small_step

from planc.training import differentiate
from planc.training.rules import GRADIENTS

NETWORKS: dict[str, dict[str, int]] = {
    "alexnet": {}, "vgg16": {}, "googlenet": {}, "inception_v4": {"image": 107}, "resnet18": {}, "resnet50": {},
    "densenet121": {"image": 64}, "mobilenet_v2": {"image": 64, "width": 8}, "squeezenet": {},
    "shufflenet": {"image": 64}, "unet": {}, "unet_bilinear": {}, "vit_b16": {}, "bert_base": {}, "gpt2": {},
    "mlp": {},
}  # fmt: skip
"""One of every family, larger than elsewhere where that makes it better conditioned."""

FLOOR, FACTOR = 1e-5, 4.0
"""A gradient may be off by FACTOR times what torch itself loses in float32, and always by FLOOR (relative norms).

Deep narrow batch-norm networks are ill-conditioned: torch in float32 is off by some percent on them too.
"""


def step_without_dropout(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The forward model and its training graph."""
    forward = small_forward(name, **NETWORKS[name]).model
    if not NETWORKS[name] and all(node.op_type != "Dropout" for node in forward.graph.node):
        return forward, small_step(name, MOMENTUM)
    return without_dropout(forward), differentiate(forward, loss="cross-entropy", optimizer=MOMENTUM)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_agrees_with_autograd(name: str) -> None:
    """Momentum starts at zero, so its next value is the gradient itself."""
    forward, step = step_without_dropout(name)
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


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v2", "alexnet", "unet_bilinear", "squeezenet", "shufflenet", "vit_b16", "gpt2"],
)
def test_no_kind_of_layer_saves_more_than_torch(name: str) -> None:
    forward, step = step_without_dropout(name)
    mine, torchs = planc_saves(step), torch_saves(forward, random_batch(step))
    assert mine.more_than(torchs) == []
    assert 0 < mine.total <= torchs.total


def test_relu6_keeps_a_mask_only_where_its_output_is_not_kept_anyway() -> None:
    """All of MobileNetV2's outputs but the last are inputs of convolutions, which keep them."""
    step = small_step("mobilenet_v2", MOMENTUM)
    kept = planc_saves(step).by_kind["relu6"]
    masks = [name for name in kept if str(name).endswith("And")]
    assert len(kept) > 30
    assert masks == ["conv_last.relu6.forward.And"]


def test_every_operator_of_the_zoo_has_a_rule() -> None:
    for name in SMALL:
        used = {node.op_type for node in small_forward(name).model.graph.node}
        assert used <= set(GRADIENTS), name
