"""The negative log-likelihood of integer labels, some of which may be ignored, as ONNX nodes.

Log-probabilities are [N, K, ...], labels [N, ...]. A label equal to the ignored one counts for nothing; all others
must lie in [0, K).
"""

from dataclasses import dataclass

from planc.training.builder import Builder, Value


@dataclass(frozen=True)
class Labels:
    """Labels read for one loss: `index` [N, 1, ...] with ignored labels set to 0, and which of them count.

    `counted` [N, 1, ...] is 0 for an ignored label, else 1 or the weight of its class, in the type of the
    log-probabilities, and `count` their scalar sum; `counted` is None where every label counts for one.
    """

    index: Value
    counted: Value | None
    count: Value


def read_labels(
    b: Builder, logp: Value, labels: Value, ignored: int | None, weight: Value | None = None
) -> Labels:  # fmt: skip
    """How much each label counts, by the label that is `ignored` and the `weight` [K] of the classes.

    A few operators on one number a position.
    """
    index, counted = b.reshape(labels, (logp.shape[0], 1, *logp.shape[2:])), None
    if ignored is not None:
        counts = b.unary("Not", b.compare("Equal", index, ignored))
        index, counted = b.mul(index, b.cast(counts, labels.dtype)), b.cast(counts, logp.dtype)
    if weight is not None:
        each = b.op("Gather", [weight, index], index.shape, axis=0)
        counted = each if counted is None else b.mul(each, counted)
    if counted is None:
        return Labels(index, None, b.full((), float(index.size), logp.dtype))
    return Labels(index, counted, b.op("ReduceSum", [counted], (), keepdims=0))


def likelihood(b: Builder, logp: Value, labels: Labels, reduction: str) -> Value:
    """-log p of the labels: `none` per position, their `sum`, or their `mean` over the labels that count."""
    picked = b.op("GatherElements", [logp, labels.index], labels.index.shape, logp.dtype, axis=1)
    if labels.counted is not None:
        picked = b.mul(picked, labels.counted)
    if reduction == "none":
        return b.reshape(b.unary("Neg", picked), (logp.shape[0], *logp.shape[2:]))
    total = b.op("ReduceSum", [picked], (), keepdims=0)
    return b.unary("Neg", b.div(total, labels.count) if reduction == "mean" else total)


def label_gradient(b: Builder, labels: Labels, reduction: str, dy: Value) -> Value:
    """The gradient of each label's log-probability, [N, 1, ...]: -dy for a label that counts, over their number for a
    mean. `dy` is a scalar, or for `none` one number a position."""
    shape, known = labels.index.shape, b.known_scalar(dy)
    minus: Value | float = -known if known is not None else b.unary("Neg", b.reshape(dy, shape if dy.shape else ()))
    if reduction == "mean":
        if isinstance(minus, float) and labels.counted is None:
            minus = minus / labels.index.size
        else:
            minus = b.div(minus, labels.count)
    if isinstance(minus, Value) and not minus.shape:
        minus = b.reshape(minus, (1,) * len(shape))
    if labels.counted is not None:
        return b.mul(labels.counted, minus)
    each = minus if isinstance(minus, Value) else b.scalar_for(minus, Value("", shape, labels.count.dtype))
    return b.expand(each, shape)


def likelihood_gradient(b: Builder, logp: Value, index: Value, share: Value) -> Value:
    """The gradient of the scores: -share softmax + share at the label, `share` [N, 1, ...] that of the log-probability.

    The label's part is added in place by a ScatterElements whose indices never collide, so it is repeatable everywhere.
    """
    spread = b.mul(b.unary("Exp", logp), b.unary("Neg", share))
    return b.op("ScatterElements", [spread, index, share], logp.shape, axis=1, reduction="add")
