"""The negative log-likelihood of integer labels, some of which may be ignored, as ONNX nodes.

Log-probabilities are [N, K, ...], labels [N, ...]. A label equal to the ignored one counts for nothing; all others
must lie in [0, K).
"""

from dataclasses import dataclass

from planc.training.builder import Builder, Value


@dataclass(frozen=True)
class Labels:
    """Labels read for one loss: `index` [N, 1, ...] with ignored labels set to 0, `counted` [N, 1, ...] 1 for a label
    that counts, else 0, and `count` the scalar number of those, both in the type of the log-probabilities."""

    index: Value
    counted: Value
    count: Value


def read_labels(b: Builder, logp: Value, labels: Value, ignored: int) -> Labels:
    """Tell the labels that count from the ignored ones: a few operators on one number a position."""
    index = b.reshape(labels, (logp.shape[0], 1, *logp.shape[2:]))
    counts = b.unary("Not", b.compare("Equal", index, ignored))
    counted = b.cast(counts, logp.dtype)
    count = b.op("ReduceSum", [counted], (), keepdims=0)
    return Labels(b.mul(index, b.cast(counts, labels.dtype)), counted, count)


def likelihood(b: Builder, logp: Value, labels: Labels, reduction: str, name: str | None = None) -> Value:
    """-log p of the labels: `none` per position, their `sum`, or their `mean` over the labels that count."""
    picked = b.op("GatherElements", [logp, labels.index], labels.index.shape, logp.dtype, axis=1)
    counted = b.mul(picked, labels.counted)
    if reduction == "none":
        return b.reshape(b.unary("Neg", counted), (logp.shape[0], *logp.shape[2:]), name=name)
    total = b.op("ReduceSum", [counted], (), keepdims=0)
    if reduction == "mean":
        total = b.div(total, labels.count)
    return b.unary("Neg", total, name=name)


def likelihood_gradient(b: Builder, logp: Value, index: Value, share: Value) -> Value:
    """The gradient of the scores: -share softmax + share at the label, `share` [N, 1, ...] that of the log-probability.

    The label's part is added in place by a ScatterElements whose indices never collide, so it is repeatable everywhere.
    """
    spread = b.mul(b.unary("Exp", logp), b.unary("Neg", share))
    return b.op("ScatterElements", [spread, index, share], logp.shape, axis=1, reduction="add")


