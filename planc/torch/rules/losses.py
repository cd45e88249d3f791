"""Log-probabilities and the negative log-likelihood of labels."""

from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Picked
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Var
from planc.training.rules.likelihood import (
    Labels,
    fused_cross_entropy,
    fused_cross_entropy_gradient,
    label_gradient,
    likelihood,
    likelihood_gradient,
    read_labels,
)  # fmt: skip
from planc.training.rules.reductions import total

_REDUCTIONS = ("none", "mean", "sum")

_SCORES, _LOSS = "scores of log-probabilities", "fused loss"
"""What is noted of log-probabilities, by their name."""


@dataclass
class _FusedLoss:
    """A loss that planc's own operator computes: `share` is the gradient of each row's loss, once it is known."""

    logits: Var
    labels: Var
    ignored: int
    statistics: Var | None = None
    share: Var | None = None


@lower(aten._log_softmax.default)
def log_softmax(c: TorchLowering, self: Var, dim: int, half_to_float: bool = False) -> Var:
    """x - log sum exp(x) along an axis."""
    del half_to_float
    made = c.b.unary("LogSoftmax", self, axis=dim % self.rank)
    if c.table.kernels and self.rank == 2 and dim % 2 == 1 and made.dtype == TensorProto.FLOAT:
        c.forward_of[_SCORES, made.name] = c.b.unwidened(self)
    return made


@lower(aten._log_softmax_backward_data.default, raw=("grad_output",))
def log_softmax_backward(c: TorchLowering, grad_output: Any, output: Var, dim: int, input_dtype: Any) -> Var:
    """From the output; of picked labels in one pass over the classes."""
    del input_dtype
    axis = dim % output.rank
    fused = c.forward_of.get((_LOSS, output.name))
    if isinstance(grad_output, Picked) and fused is not None and fused.share is not None:
        slope = fused_cross_entropy_gradient(
            c.b, fused.logits, fused.labels, fused.statistics, fused.share, fused.ignored
        )  # fmt: skip
        return c.b.cast(slope, output.dtype)
    if isinstance(grad_output, Picked) and axis == 1:
        return likelihood_gradient(c.b, output, grad_output.index, grad_output.share)
    node = forward_node(c.b, c.table, "LogSoftmax", [None], [output], axis=axis)
    return gradients_of(c.b, node, [c.value(grad_output)], [0])[0]


def _labels(c: TorchLowering, logp: Var, target: Var, weight: Var | None, ignored: int) -> Labels:
    c.index_ranges.setdefault(target.name, logp.shape[1])
    return read_labels(c.b, logp, target, ignored, weight)


@lower(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def nll_loss(
    c: TorchLowering, self: Var, target: Var, weight: Var | None, reduction: int, ignore_index: int
) -> tuple[Var, Var]:
    """The loss and the number of labels that count, as torch returns them."""
    if self.rank == 1:
        rows = (c.b.reshape(self, (1, self.size)), c.b.reshape(target, (1,)))
        found, number = nll_loss(c, *rows, weight, reduction, ignore_index)
        return c.b.reshape(found, ()), number
    labels = _labels(c, self, target, weight, ignore_index)
    count = labels.count(c.b, c.table, self.dtype)
    logits = c.forward_of.get((_SCORES, self.name))
    if logits is None or weight is not None:
        return likelihood(c.b, c.table, self, labels, _REDUCTIONS[reduction]), count
    fused = _FusedLoss(logits, c.b.cast(target, TensorProto.INT64), ignore_index)
    each, fused.statistics = fused_cross_entropy(c.b, fused.logits, fused.labels, ignore_index)
    c.forward_of[_LOSS, self.name] = fused
    if _REDUCTIONS[reduction] == "none":
        return each, count
    summed = total(c.b, c.table, each)
    return (c.b.div(summed, count) if _REDUCTIONS[reduction] == "mean" else summed), count


@lower(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def nll_loss_backward(
    c: TorchLowering, grad_output: Var, self: Var, target: Var, weight: Var | None, reduction: int,
    ignore_index: int, total_weight: Var,
) -> Picked | Var:  # fmt: skip
    """Nothing but the gradients at the labels; the labels are read anew, which is cheaper than keeping them."""
    if self.rank == 1:
        rows = (c.b.reshape(self, (1, self.size)), c.b.reshape(target, (1,)))
        dy = c.b.reshape(grad_output, (1,)) if _REDUCTIONS[reduction] == "none" else grad_output
        picked = nll_loss_backward(c, dy, *rows, weight, reduction, ignore_index, total_weight)
        return c.b.reshape(c.value(picked), self.shape)
    del total_weight
    labels = _labels(c, self, target, weight, ignore_index)
    fused = c.forward_of.get((_LOSS, self.name))
    if fused is not None:
        mean = _REDUCTIONS[reduction] == "mean"
        fused.share = c.b.div(grad_output, labels.count(c.b, c.table, self.dtype)) if mean else grad_output
    return Picked(self, labels.index, label_gradient(c.b, c.table, labels, _REDUCTIONS[reduction], grad_output))
