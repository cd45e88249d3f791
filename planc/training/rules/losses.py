"""Losses of integer labels: the cross-entropy operator, lowered to LogSoftmax and a pick, and the pick alone."""

from onnx import TensorProto

from planc.errors import ModelError
from planc.training.emit.builder import HALVES, Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
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


def _counts_differ(node: ForwardNode) -> bool:
    """Whether some labels may count for more than others."""
    return node.has_input(2) or node.attribute("ignore_index", None) is not None


def _refuse_trained_weights(node: ForwardNode) -> None:
    if 2 in node.wanted:
        raise ModelError(f"{node.where}: class weights cannot be trained")


def _labels(b: Builder, node: ForwardNode, scores: Var) -> Labels:
    weight = node.input(2) if node.has_input(2) else None
    return read_labels(b, scores, node.input(1), node.attribute("ignore_index", None), weight)


def _has_kernel(node: ForwardNode) -> bool:
    """Whether planc's own operator computes the loss: of a matrix of scores, all classes weighing the same."""
    plain = node.input(0).rank == 2 and not node.has_input(2) and not node.has_output(1)
    return node.table.kernels and plain and node.input(0).dtype in (*HALVES, TensorProto.FLOAT)


def _lower_to_kernel(b: Builder, node: ForwardNode) -> ForwardResult:
    """Scores are read in the type that they were made in, and kept for the gradient instead of log-probabilities."""
    logits, labels = b.unwidened(node.input(0)), b.cast(node.input(1), TensorProto.INT64)
    ignored = node.attribute("ignore_index", None)
    if ignored is not None:
        b.ignored_labels[node.input(1).name] = ignored
    each, statistics = fused_cross_entropy(b, logits, labels, ignored)
    reduction, name = node.attribute("reduction", "mean"), node.output.name
    if reduction == "none":
        b.cast(each, node.output.dtype, name=name)
    else:
        share = b.cast(_kernel_share(b, node, logits, None), TensorProto.FLOAT)
        b.cast(b.mul(total(b, node.table, each), share), node.output.dtype, name=name)
    return ForwardResult({"logits": logits, "labels": labels, "statistics": statistics})


def _kernel_share(b: Builder, node: ForwardNode, logits: Var, dy: Var | None) -> Var:
    """The gradient of every row's loss, given that of the node's output (None: 1): a scalar, or for `none` one a row."""
    reduction = node.attribute("reduction", "mean")
    one = b.full((), 1.0, TensorProto.FLOAT) if dy is None else b.cast(dy, TensorProto.FLOAT)
    if reduction != "mean":
        return one
    if not _counts_differ(node):
        known = b.known_scalar(one)
        share = 1 / logits.shape[0]
        return b.full((), known * share, TensorProto.FLOAT) if known is not None else b.mul(b.reshape(one, ()), share)
    like = Var("", logits.shape, TensorProto.FLOAT)
    return b.div(b.reshape(one, ()), _labels(b, node, like).count(b, node.table, TensorProto.FLOAT))


def _kernel_gradient(b: Builder, node: ForwardNode, dy: Var) -> Var:
    """In the type of the scores that were kept, be it that of the node's input or the half that it was widened from."""
    logits, labels, statistics = (node.saved[key] for key in ("logits", "labels", "statistics"))
    share = _kernel_share(b, node, logits, dy)
    share = b.reshape(share, (logits.shape[0],) if share.size == logits.shape[0] > 1 else ())
    return fused_cross_entropy_gradient(
        b, logits, labels, statistics, share, node.attribute("ignore_index", None)
    )  # fmt: skip


@forward_rule("SoftmaxCrossEntropyLoss")
def lower_cross_entropy(b: Builder, node: ForwardNode) -> ForwardResult:
    """Scores [N, K, ...], labels [N, ...], class weights [K]; the operator itself has no CUDA kernel."""
    scores, reduction = node.input(0), node.attribute("reduction", "mean")
    if _has_kernel(node):
        return _lower_to_kernel(b, node)
    labels = _labels(b, node, scores)
    name = node.outputs[1].name if node.has_output(1) and node.outputs[1] else None
    logp = b.unary("LogSoftmax", scores, name=name, axis=1)
    likelihood(b, node.table, logp, labels, reduction, name=node.output.name)
    return ForwardResult({"logp": logp, "index": labels.index})


@gradient("SoftmaxCrossEntropyLoss")
def cross_entropy(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dz = dy (softmax - onehot), over the number of positions for the mean.

    The one-hot is a ScatterElements whose indices never collide: repeatable everywhere, and without a one-hot tensor.
    With class weights or an ignored label each position's dy is scaled by how much it counts; labels are read anew.
    """
    if any(dy is not None for dy in grads[1:]):
        raise ModelError(f"{node.where}: the gradient of its log-probabilities is not supported; use LogSoftmax")
    _refuse_trained_weights(node)
    if _has_kernel(node):
        return {0: _kernel_gradient(b, node, sole(grads))}
    dy, logp, reduction = sole(grads), node.saved["logp"], node.attribute("reduction", "mean")
    if _counts_differ(node):
        labels = _labels(b, node, logp)
        share = label_gradient(b, node.table, labels, reduction, dy)
        return {0: likelihood_gradient(b, logp, labels.index, share)}
    index, known = node.saved["index"], b.known_scalar(dy)
    scale = 1 / index.size if reduction == "mean" else 1.0
    if known is not None:
        each, minus = (b.scalar_for(sign * scale * known, logp) for sign in (1, -1))
    else:
        each = b.mul(b.reshape(dy, index.shape if dy.size == index.size else (1,) * index.rank), scale)
        minus = b.unary("Neg", each)
    at_label = b.expand(minus, index.shape)
    spread = b.mul(b.unary("Exp", logp), each)
    return {0: b.op("ScatterElements", [spread, index, at_label], logp.shape, axis=1, reduction="add")}


@forward_rule("NegativeLogLikelihoodLoss")
def lower_likelihood(b: Builder, node: ForwardNode) -> ForwardResult:
    """Log-probabilities [N, K, ...], labels [N, ...], class weights [K]; the operator itself has no CUDA kernel."""
    logp = node.input(0)
    labels = _labels(b, node, logp)
    likelihood(b, node.table, logp, labels, node.attribute("reduction", "mean"), name=node.output.name)
    return ForwardResult()


@gradient("NegativeLogLikelihoodLoss")
def negative_log_likelihood(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """-dy at the label, times how much it counts, among zeros; nothing but the labels is read."""
    _refuse_trained_weights(node)
    logp, labels = node.input(0), _labels(b, node, node.input(0))
    share = label_gradient(b, node.table, labels, node.attribute("reduction", "mean"), sole(grads))
    zeros = b.zeros(logp.shape, share.dtype)
    return {0: b.op("ScatterElements", [zeros, labels.index, share], logp.shape, axis=1)}
