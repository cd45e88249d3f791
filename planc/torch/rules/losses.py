"""Log-probabilities and the negative log-likelihood of labels."""

from typing import Any

from planc.torch.lowering import TorchLowering, aten, lower
from planc.torch.tensors import Picked
from planc.training.apply import forward_node, gradients_of
from planc.training.emit.builder import Var
from planc.training.rules.likelihood import Labels, label_gradient, likelihood, likelihood_gradient, read_labels

_REDUCTIONS = ("none", "mean", "sum")


@lower(aten._log_softmax.default)
def log_softmax(c: TorchLowering, self: Var, dim: int, half_to_float: bool = False) -> Var:
    """x - log sum exp(x) along an axis."""
    del half_to_float
    return c.b.unary("LogSoftmax", self, axis=dim % self.rank)


@lower(aten._log_softmax_backward_data.default, raw=("grad_output",))
def log_softmax_backward(c: TorchLowering, grad_output: Any, output: Var, dim: int, input_dtype: Any) -> Var:
    """From the output; of picked labels in one pass over the classes."""
    del input_dtype
    axis = dim % output.rank
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
    labels = _labels(c, self, target, weight, ignore_index)
    loss = likelihood(c.b, c.table, self, labels, _REDUCTIONS[reduction])
    return loss, labels.count(c.b, c.table, self.dtype)


@lower(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def nll_loss_backward(
    c: TorchLowering, grad_output: Var, self: Var, target: Var, weight: Var | None, reduction: int,
    ignore_index: int, total_weight: Var,
) -> Picked:  # fmt: skip
    """Nothing but the gradients at the labels; the labels are read anew, which is cheaper than keeping them."""
    del total_weight
    labels = _labels(c, self, target, weight, ignore_index)
    return Picked(self, labels.index, label_gradient(c.b, c.table, labels, _REDUCTIONS[reduction], grad_output))
