"""The optimizer model of a training artifact: one operator on sequences, lowered to an update per parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from planc.errors import ModelError
from planc.training.assembly import Assembly
from planc.training.emit.builder import Builder, LayerGroup, Var
from planc.training.optimizers import Optimizer
from planc.training.registry import attributes_of

CLIP_EPSILON = 1e-6
"""Added to the norm of all gradients before it divides (torch.nn.utils.clip_grad_norm_)."""


@dataclass(frozen=True)
class ArtifactOptimizer:
    """The update rule of an optimizer model.

    `after` tells the two orders of AdamW apart: torch shrinks the parameter first, the `transformers` package last,
    and it leaves the second moment's bias correction to the step size (`adam_mode` 0 and 1 of AdamWOptimizer).
    `corrected` is whether moments are corrected for their bias at all. `max_norm` bounds the norm of all gradients.
    """

    rule: Optimizer
    after: bool = False
    corrected: bool = True
    max_norm: float | None = None


def optimizer_of(model: onnx.ModelProto, learning_rate: float) -> ArtifactOptimizer:
    """Read an optimizer model; the learning rate, an input there, is fixed. Raises ModelError for unknown operators."""
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
    rule = Optimizer(
        "adamw",
        learning_rate,
        betas=(round(float(attributes.get("alpha", 0.9)), 7), round(float(attributes.get("beta", 0.999)), 7)),
        epsilon=float(attributes.get("epsilon", 1e-8)),
        weight_decay=float(attributes.get("weight_decay", 1e-2)),
    )
    corrected = bool(attributes.get("correct_bias", 1))
    return ArtifactOptimizer(rule, bool(attributes.get("adam_mode", 0)), corrected, max_norm)


@dataclass
class Updates:
    """Emits the updates of one step; `begin` comes first, at the end of the forward pass."""

    step: Assembly
    optimizer: ArtifactOptimizer
    _size: Var | float = 0.0

    def begin(self) -> None:
        """Emit what the updates share: the step count and the size of this step."""
        rule = self.optimizer.rule
        if self.optimizer.corrected:
            self.step.step_count([rule])
        scales = self.step.scales(rule)
        self._size = rule.learning_rate if scales is None else self.step.b.div(scales.step_size, scales.root_correction)

    def emit(self, name: str, gradient: Var, group: LayerGroup) -> None:
        """Emit the update of parameter `name`."""
        step, optimizer = self.step, self.optimizer
        if optimizer.rule.kind == "adamw" and (optimizer.after or not optimizer.corrected):
            step.b.group = LayerGroup(group.layer, group.kind, "update")
            state = step.slot_values(name, optimizer.rule)
            following = _other_adamw(step.b, optimizer, (step.b.values[name], *state), gradient, self._size)
            step.hold_all(name, optimizer.rule, following)
        else:
            step.update(name, optimizer.rule, gradient, group)


def _other_adamw(
    b: Builder, optimizer: ArtifactOptimizer, held: tuple[Var, ...], grad: Var, size: Var | float
) -> list[Var]:
    """m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2; then by `after` (Loshchilov and Hutter, 2019)

    true: u = w - lr sqrt(1 - b2^t) / (1 - b1^t) m' / (sqrt v' + eps); w' = u (1 - lr decay), uncorrected: without the
    two bias terms; false and uncorrected: w' = w (1 - lr decay) - lr m' / (sqrt v' + eps).
    """
    (w, first, second), o = held, optimizer.rule
    beta1, beta2 = o.betas
    first = b.add(b.mul(first, beta1), b.mul(grad, 1 - beta1), name=f"{first.name}.next")
    second = b.add(b.mul(second, beta2), b.mul(b.mul(grad, grad), 1 - beta2), name=f"{second.name}.next")
    direction = b.div(first, b.add(b.unary("Sqrt", second), o.epsilon))
    kept = 1 - o.learning_rate * o.weight_decay
    moved = b.mul(direction, b.reshape(size, (1,) * w.rank) if isinstance(size, Var) else size)
    following = f"{w.name}.next"
    if kept == 1.0:
        return [b.sub(w, moved, name=following), first, second]
    if optimizer.after:
        return [b.mul(b.sub(w, moved), kept, name=following), first, second]
    return [b.sub(b.mul(w, kept), moved, name=following), first, second]


def clip_factor(step: Assembly, squares: list[Var], max_norm: float) -> Var:
    """min(1, max_norm / (norm + 1e-6)) of all gradients, whose sums of squares are given (Pascanu et al., 2013)."""
    b = step.b
    b.group = LayerGroup("gradient_norm", "clip", "update")
    total = squares[0]
    for square in squares[1:]:
        total = b.add(total, square)
    share = b.div(max_norm, b.add(b.unary("Sqrt", total), CLIP_EPSILON))
    return b.op("Min", [share, b.scalar_for(1.0, share)], ())
