"""Losses of integer labels: the cross-entropy operator, lowered to LogSoftmax and a pick, and the pick alone."""

from planc.errors import ModelError
from planc.training.emit.builder import Builder, Var
from planc.training.registry import ForwardNode, ForwardResult, Gradients, OutputGradients, forward_rule, gradient, sole
from planc.training.rules.likelihood import Labels, label_gradient, likelihood, likelihood_gradient, read_labels


def _counts_differ(node: ForwardNode) -> bool:
    """Whether some labels may count for more than others."""
    return node.has_input(2) or node.attribute("ignore_index", None) is not None


def _refuse_trained_weights(node: ForwardNode) -> None:
    if 2 in node.wanted:
        raise ModelError(f"{node.where}: class weights cannot be trained")


def _labels(b: Builder, node: ForwardNode, scores: Var) -> Labels:
    weight = node.input(2) if node.has_input(2) else None
    return read_labels(b, scores, node.input(1), node.attribute("ignore_index", None), weight)


@forward_rule("SoftmaxCrossEntropyLoss")
def lower_cross_entropy(b: Builder, node: ForwardNode) -> ForwardResult:
    """Scores [N, K, ...], labels [N, ...], class weights [K]; the operator itself has no CUDA kernel."""
    scores, reduction = node.input(0), node.attribute("reduction", "mean")
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
