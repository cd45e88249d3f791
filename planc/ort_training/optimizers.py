"""The optimizer model of a training artifact: one operator on sequences, lowered to an update per parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from planc.errors import ModelError
from planc.training.optimizers import Optimizer
from planc.training.registry import attributes_of


@dataclass(frozen=True)
class ArtifactOptimizer:
    """The update rule of an optimizer model, and the bound on the norm of all gradients."""

    rule: Optimizer
    max_norm: float | None = None


def optimizer_of(model: onnx.ModelProto, learning_rate: float) -> ArtifactOptimizer:
    """Read an optimizer model; `learning_rate` is what that input is at first. Raises ModelError for unknown operators."""
    max_norm, found = None, None
    for node in model.graph.node:
        attributes = attributes_of(node)
        if node.op_type == "InplaceClipGradNorm":
            max_norm = float(attributes.get("max_norm", 1.0))
            if attributes.get("norm_type", "fro") != "fro":
                raise ModelError(f"node {node.name!r}: only the Euclidean norm can clip gradients")
        elif node.op_type in ("AdamWOptimizer", "SGDOptimizerV2"):
            found = (node.op_type, attributes)
        else:
            raise ModelError(f"node {node.name!r}: {node.op_type} is no part of an optimizer model planc knows")
    if found is None:
        raise ModelError("the optimizer model holds neither AdamWOptimizer nor SGDOptimizerV2")
    if found[0] == "SGDOptimizerV2":
        return ArtifactOptimizer(Optimizer("sgd", learning_rate), max_norm=max_norm)
    return _adamw(found[1], learning_rate, max_norm)


def _adamw(attributes: Mapping[str, Any], learning_rate: float, max_norm: float | None) -> ArtifactOptimizer:
    """`adam_mode` 0 is torch's order, 1 that of the `transformers` package."""
    rule = Optimizer(
        "adamw",
        learning_rate,
        betas=(round(float(attributes.get("alpha", 0.9)), 7), round(float(attributes.get("beta", 0.999)), 7)),
        epsilon=float(attributes.get("epsilon", 1e-8)),
        weight_decay=float(attributes.get("weight_decay", 1e-2)),
        bias_correction=bool(attributes.get("correct_bias", 1)),
        decay_last=bool(attributes.get("adam_mode", 0)),
    )
    return ArtifactOptimizer(rule, max_norm)
