"""The cross-entropy operator: lowered to LogSoftmax and a pick, with the gradient (softmax - onehot) / positions."""

from planc.errors import ModelError
from planc.training.builder import Builder
from planc.training.registry import ForwardNode, Gradients, Lowered, OutputGradients, gradient, lowering, sole
from planc.training.rules.reductions import total


@lowering("SoftmaxCrossEntropyLoss")
def lower_cross_entropy(b: Builder, node: ForwardNode) -> Lowered:
    """Scores [N, K, ...], labels [N, ...]; the operator itself has no CUDA kernel."""
    scores, labels = node.input(0), node.input(1)
    if node.has_input(2) or node.attribute("ignore_index", None) is not None:
        raise ModelError(f"{node.where}: class weights and ignore_index are not supported")
    index = b.reshape(labels, (scores.shape[0], 1, *scores.shape[2:]))
    reduction = node.attribute("reduction", "mean")
    name = node.outputs[1].name if node.has_output(1) and node.outputs[1] else None
    logp = b.unary("LogSoftmax", scores, name=name, axis=1)
    picked = b.op("GatherElements", [logp, index], index.shape, logp.dtype, axis=1)
    if reduction == "none":
        b.reshape(b.unary("Neg", picked), labels.shape, name=node.output.name)
    else:
        share = 1 / picked.size if reduction == "mean" else 1.0
        b.mul(total(b, node.table, picked), -share, name=node.output.name)
    return Lowered({"logp": logp, "index": index})


@gradient("SoftmaxCrossEntropyLoss")
def cross_entropy(b: Builder, node: ForwardNode, grads: OutputGradients) -> Gradients:
    """dz = dy (softmax - onehot), over the number of positions for the mean.

    The one-hot is a ScatterElements whose indices never collide: repeatable everywhere, and without a one-hot tensor.
    """
    dy, logp, index = sole(grads), node.saved["logp"], node.saved["index"]
    share = 1 / index.size if node.attribute("reduction", "mean") == "mean" else 1.0
    known = b.known_scalar(dy)
    if known is not None:
        each, minus = (b.scalar_for(sign * share * known, logp) for sign in (1, -1))
    else:
        each = b.mul(b.reshape(dy, index.shape if dy.size == index.size else (1,) * index.rank), share)
        minus = b.unary("Neg", each)
    updates = b.expand(minus, index.shape)
    return {
        0: b.op(
            "ScatterElements", [b.mul(b.unary("Exp", logp), each), index, updates], logp.shape, axis=1, reduction="add"
        )
    }
