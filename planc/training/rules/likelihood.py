"""The negative log-likelihood of integer labels, some of which may be ignored, as ONNX nodes.

Log-probabilities are [N, K, ...], labels [N, ...]. A label equal to the ignored one counts for nothing; all others
must lie in [0, K).
"""

from dataclasses import dataclass

from planc.kernels.cross_entropy import CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT, IGNORED
from planc.training.emit.builder import Builder, Var
from planc.training.emit.forms import OperatorForms
from planc.training.rules.reductions import total


@dataclass(frozen=True)
class Labels:
    """Labels read for one loss: `index` [N, 1, ...] with ignored labels set to 0, and which of them count.

    `counts` [N, 1, ...] is false for an ignored label, None where none can be; `counted` is 0 there, else 1 or the
    weight of its class, in the type of the log-probabilities, None where every label counts for one. `weighted` tells
    that classes have weights.
    """

    index: Var
    counted: Var | None
    counts: Var | None = None
    weighted: bool = False

    def chosen(self, b: Builder, each: Var) -> Var:
        """One number a label, times how much it counts: 0 for an ignored one, whatever the number is."""
        if self.counted is not None and self.weighted:
            each = b.mul(each, self.counted)
        return each if self.counts is None else b.where(self.counts, each, 0.0)

    def count(self, b: Builder, table: OperatorForms, dtype: int) -> Var:
        """How much all labels count together, a scalar of type `dtype`."""
        if self.counted is None:
            return b.full((), float(self.index.size), dtype)
        return b.cast(total(b, table, self.counted), dtype)

    def divisor(self, b: Builder, table: OperatorForms, dtype: int) -> Var:
        """The count, or one where nothing counts: the gradient of no label is 0."""
        count = self.count(b, table, dtype)
        return b.where(b.compare("Equal", count, 0.0), 1.0, count)


def read_labels(
    b: Builder, logp: Var, labels: Var, ignored: int | None, weight: Var | None = None
) -> Labels:  # fmt: skip
    """How much each label counts, by the label that is `ignored` and the `weight` [K] of the classes.

    A few operators on one number a position.
    """
    index, counted, counts = b.reshape(labels, (logp.shape[0], 1, *logp.shape[2:])), None, None
    if ignored is not None:
        b.ignored_labels[labels.name] = ignored
        counts = b.unary("Not", b.compare("Equal", index, ignored))
        index, counted = b.mul(index, b.cast(counts, labels.dtype)), b.cast(counts, logp.dtype)
    if weight is not None:
        each = b.op("Gather", [weight, index], index.shape, axis=0)
        counted = each if counted is None else b.mul(each, counted)
    return Labels(index, counted, counts, weight is not None)


def likelihood(
    b: Builder, table: OperatorForms, logp: Var, labels: Labels, reduction: str, name: str | None = None
) -> Var:
    """-log p of the labels: `none` per position, their `sum`, or their `mean` over what the labels count."""
    picked = b.op("GatherElements", [logp, labels.index], labels.index.shape, logp.dtype, axis=1)
    picked = labels.chosen(b, picked)
    if reduction == "none":
        return b.reshape(b.unary("Neg", picked), (logp.shape[0], *logp.shape[2:]), name=name)
    summed = b.cast(total(b, table, picked), logp.dtype)
    if reduction == "sum" or labels.counted is None:
        return b.mul(summed, -1.0 if reduction == "sum" else -1 / picked.size, name=name)
    return b.unary("Neg", b.div(summed, labels.count(b, table, logp.dtype)), name=name)


def label_gradient(b: Builder, table: OperatorForms, labels: Labels, reduction: str, dy: Var) -> Var:
    """The gradient of each label's log-probability, [N, 1, ...]: -dy times how much the label counts, over how much
    all count for a mean. `dy` is a scalar, or for `none` one number a position."""
    shape, known = labels.index.shape, b.known_scalar(dy)
    minus: Var | float = -known if known is not None else b.unary("Neg", b.reshape(dy, shape if dy.shape else ()))
    if reduction == "mean":
        if isinstance(minus, float) and labels.counted is None:
            minus = minus / labels.index.size
        else:
            minus = b.div(minus, labels.divisor(b, table, dy.dtype))
    if isinstance(minus, Var) and not minus.shape:
        minus = b.reshape(minus, (1,) * len(shape))
    each = minus if isinstance(minus, Var) else b.scalar_for(minus, Var("", shape, dy.dtype))
    return b.expand(labels.chosen(b, each), shape)


def likelihood_gradient(b: Builder, logp: Var, index: Var, share: Var) -> Var:
    """The gradient of the scores: -share softmax + share at the label, `share` [N, 1, ...] that of the log-probability.

    The label's part is added in place by a ScatterElements whose indices never collide, so it is repeatable everywhere.
    """
    spread = b.mul(b.unary("Exp", logp), b.unary("Neg", share))
    return b.op("ScatterElements", [spread, index, share], logp.shape, axis=1, reduction="add")


def fused_cross_entropy(
    b: Builder, logits: Var, labels: Var, ignored: int | None, smoothing: float = 0.0
) -> tuple[Var, Var]:  # fmt: skip
    """The loss of each row [N] of logits [N, K] by planc's own operator, and what its gradient needs besides them."""
    each, statistics = b.kernel(CROSS_ENTROPY, [logits, labels], ignored=_label(ignored), smoothing=smoothing)
    return each, statistics


def fused_cross_entropy_gradient(
    b: Builder, logits: Var, labels: Var, statistics: Var, share: Var, ignored: int | None, smoothing: float = 0.0
) -> Var:
    """The gradient of the logits, in their type; `share` is that of each row's loss, [N], or of every row's, ()."""
    operands = [logits, labels, statistics, share]
    return b.kernel(CROSS_ENTROPY_GRADIENT, operands, ignored=_label(ignored), smoothing=smoothing)[0]


def _label(ignored: int | None) -> int:
    return IGNORED if ignored is None else ignored
