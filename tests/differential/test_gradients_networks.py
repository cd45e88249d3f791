"""Whole networks against torch: loss and every gradient, and the bytes kept for them."""

import pytest
from support.gradient_errors import NETWORKS, gradient_errors, step_without_dropout
from support.saved_bytes import planc_saves, torch_saves
from support.training_steps import random_batch
from support.zoo_networks import MOMENTUM, SMALL, small_forward, small_step

from planc.training.prepare.attention import OP_TYPE, stays_whole
from planc.training.rules import GRADIENTS

FLOOR, FACTOR = 1e-5, 4.0
"""A gradient may be off by FACTOR times what torch itself loses in float32, and always by FLOOR (relative norms).

Deep narrow batch-norm networks are ill-conditioned: torch in float32 is off by some percent on them too.
"""


@pytest.mark.parametrize("name", NETWORKS)
def test_network_agrees_with_autograd(name: str) -> None:
    planc, single = gradient_errors(name)
    assert planc.loss <= FACTOR * single.loss + FLOOR
    assert planc.gradients <= FACTOR * single.gradients + FLOOR


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
    """ONNX's Attention is prepared as one operator of planc's own, which has one, where it is none of the unusual kinds."""
    for name in SMALL:
        model = small_forward(name).model
        used = {node.op_type for node in model.graph.node}
        assert "Attention" not in used or stays_whole(model), name
        assert (used - {"Attention"}) | ({OP_TYPE} if "Attention" in used else set()) <= set(GRADIENTS), name
