"""Handlers of the operators that ONNX Runtime's training graphs consist of.

Semantics are those of ONNX Runtime 1.19's training operators (orttraining/core/graph/training_op_defs.cc).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from planc.errors import ModelError
from planc.training.apply import forward_node, gradients_of
from planc.training.builder import Value
from planc.training.likelihood import label_gradient, likelihood, likelihood_gradient, read_labels
from planc.training.ort_artifacts_lowering import ArtifactLowering, Call, Tensor, lowers
from planc.training.registry import ForwardNode
from planc.training.rules.reductions import leading_sum

Results = Sequence[Tensor | None]


def _gradients(c: ArtifactLowering, call: Call, node: ForwardNode, dy: Value, positions: dict[int, int]) -> Results:
    """The gradients of `node` by output of `call`: `positions` maps each output to an input of the forward operator."""
    wanted = {output: position for output, position in positions.items() if call.makes(output)}
    found = gradients_of(c.b, node, [dy], wanted.values())
    return [found.get(wanted[i]) if i in wanted else None for i in range(len(call.proto.output))]


def _from_output(c: ArtifactLowering, op_type: str, y: Value, dy: Value, **attributes: Any) -> list[Value]:
    """The gradient of an operator that needs its output alone."""
    node = forward_node(c.b, c.table, op_type, [None], [y], **attributes)
    return [gradients_of(c.b, node, [dy], [0])[0]]


def _from_input(c: ArtifactLowering, op_type: str, x: Value, dy: Value, **attributes: Any) -> list[Value]:
    """The gradient of an operator that needs its input alone."""
    node = forward_node(c.b, c.table, op_type, [x], [x], **attributes)
    return [gradients_of(c.b, node, [dy], [0])[0]]


# --- views and products


@lowers("Identity")
def identity(c: ArtifactLowering, call: Call) -> Results:
    """The tensor itself."""
    return [c.tensor(call.name(0))]


@lowers("Transpose")
def transpose(c: ArtifactLowering, call: Call) -> Results:
    """Permuted axes, not yet materialised."""
    a = c.tensor(call.name(0))
    return [c.permuted(a, call.attribute("perm", list(reversed(range(len(a.shape))))))]


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def view(c: ArtifactLowering, call: Call) -> Results:
    """The same elements under a shape that is known by now."""
    a = c.tensor(call.name(0))
    if call.op_type == "Reshape":
        wanted = [int(d) for d in c.constant(call, 1)]
        keep = not call.attribute("allowzero", 0)
        shape = [a.shape[i] if d == 0 and keep else d for i, d in enumerate(wanted)]
        rest = math.prod(d for d in shape if d != -1)
        return [c.viewed(a, [math.prod(a.shape) // rest if d == -1 else d for d in shape])]
    if call.op_type == "Flatten":
        axis = call.attribute("axis", 1) % (len(a.shape) + 1)
        return [c.viewed(a, (math.prod(a.shape[:axis]), math.prod(a.shape[axis:])))]
    given = c.constant(call, 1) if call.has(1) else None
    if call.op_type == "Squeeze":
        axes = range(len(a.shape)) if given is None else [int(v) % len(a.shape) for v in given]
        return [c.viewed(a, [d for i, d in enumerate(a.shape) if i not in axes or d != 1])]
    rank = len(a.shape) + len(c.constant(call, 1))
    added, rest_dims = {int(v) % rank for v in c.constant(call, 1)}, iter(a.shape)
    return [c.viewed(a, [1 if i in added else next(rest_dims) for i in range(rank)])]


def _product(c: ArtifactLowering, left: Tensor, right: Tensor, alpha: float) -> Value:
    """alpha left right; against a matrix as one Gemm, which reads a transposed operand in place."""
    if len(right.shape) != 2 or len(left.shape) < 2:
        plain = c.b.matmul(c.ordered(left), c.ordered(right))
        return c.b.mul(plain, alpha)
    rows = math.prod(left.shape[:-1])
    (a, trans_a), (w, trans_w) = c.matrix(c.viewed(left, (rows, left.shape[-1]))), c.matrix(right)
    product = c.b.gemm(a, w, trans_a=trans_a, trans_b=trans_w, alpha=alpha)
    return c.view(product, (*left.shape[:-1], right.shape[1]))


@lowers("MatMul", "FusedMatMul", "TransposeMatMul")
def matmul(c: ArtifactLowering, call: Call) -> Results:
    """A matrix product whose operands may be asked for transposed."""
    operands = []
    for position, letter in enumerate("AB"):
        a = c.tensor(call.name(position))
        if call.attribute(f"transBatch{letter}", 0):
            raise ModelError(f"{call.where}: transBatch{letter} is not supported")
        if call.attribute(f"trans{letter}", 0):
            rank = len(a.shape)
            a = c.permuted(a, (*range(rank - 2), rank - 1, rank - 2))
        operands.append(a)
    if any(len(a.shape) < 2 for a in operands):
        raise ModelError(f"{call.where}: vectors are not supported as operands; use matrices")
    return [_product(c, operands[0], operands[1], float(call.attribute("alpha", 1.0)))]


@lowers("Gemm")
def gemm(c: ArtifactLowering, call: Call) -> Results:
    """alpha A B + beta C; an addend that counts for nothing is left out."""
    flags = [bool(call.attribute(f"trans{letter}", 0)) for letter in "AB"]
    pairs = [c.matrix(c.tensor(call.name(i))) for i in range(2)]
    (a, trans_a), (w, trans_w) = ((v, t != flag) for (v, t), flag in zip(pairs, flags, strict=True))
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    addend = c.optional(call, 2)
    if addend is None or beta == 0:
        return [c.b.gemm(a, w, trans_a=trans_a, trans_b=trans_w, alpha=alpha)]
    attributes: dict[str, Any] = {"transA": 1} if trans_a else {}
    attributes |= {"transB": 1} if trans_w else {}
    attributes |= {k: v for k, v in (("alpha", alpha), ("beta", beta)) if v != 1.0}
    shape = (a.shape[int(trans_a)], w.shape[int(not trans_w)])
    return [c.b.op("Gemm", [a, w, addend], shape, **attributes)]


# --- arithmetic


@lowers("Add", "Sub", "Mul", "Div")
def arithmetic(c: ArtifactLowering, call: Call) -> Results:
    """Element-wise; a constant of one element is given the rank that broadcasts fast."""
    a, other = c.value(call, 0), c.value(call, 1)
    form = {"Add": c.b.add, "Sub": c.b.sub, "Mul": c.b.mul, "Div": c.b.div}[call.op_type]
    numbers = [c.b.known_scalar(v) if v.rank <= w.rank else None for v, w in ((a, other), (other, a))]
    if numbers[1] is not None and a.size > 1:
        return [form(a, numbers[1])]
    return [form(numbers[0], other)] if numbers[0] is not None and other.size > 1 else [form(a, other)]


@lowers("Sum")
def sum_(c: ArtifactLowering, call: Call) -> Results:
    """Partial sums one by one, so that each can replace the one before it."""
    total = c.value(call, 0)
    for position in range(1, len(call.proto.input)):
        total = c.b.add(total, c.value(call, position))
    return [total]


@lowers("Scale")
def scale(c: ArtifactLowering, call: Call) -> Results:
    """x scale, or x / scale where `scale_down`."""
    x, factor = c.value(call, 0), c.value(call, 1)
    by = c.b.cast(c.view(factor, (1,) * x.rank), x.dtype)
    return [c.b.div(x, by) if call.attribute("scale_down", 0) else c.b.mul(x, by)]


@lowers("ReduceSum", "ReduceSumTraining")
def reduce_sum(c: ArtifactLowering, call: Call) -> Results:
    """Sums over leading axes, as bias gradients are, in the form that the device repeats exactly."""
    a, keep = c.value(call, 0), bool(call.attribute("keepdims", 1))
    given = c.constant(call, 1) if call.has(1) else np.array(call.attribute("axes", []), np.int64)
    axes = sorted(int(v) % a.rank for v in given)
    if not axes:
        axes = [] if call.attribute("noop_with_empty_axes", 0) else list(range(a.rank))
    if not axes:
        return [a]
    kept = tuple(1 if i in axes else d for i, d in enumerate(a.shape) if keep or i not in axes)
    if len(axes) == a.rank:
        return [c.view(c.b.op("ReduceSum", [a], (), keepdims=0), kept)]
    if axes == list(range(len(axes))):
        return [c.view(leading_sum(c.b, c.table, a, a.rank - len(axes)), kept)]
    return [c.b.sum(a, axes, keepdims=keep)]


@lowers("ReduceAllL2")
def reduce_all_l2(c: ArtifactLowering, call: Call) -> Results:
    """The Euclidean norm of all inputs together."""
    squares = [c.b.op("ReduceSumSquare", [c.value(call, i)], (), keepdims=0) for i in range(len(call.proto.input))]
    total = squares[0]
    for square in squares[1:]:
        total = c.b.add(total, square)
    return [c.b.unary("Sqrt", total)]


@lowers("ConcatTraining")
def concat(c: ArtifactLowering, call: Call) -> Results:
    """Concatenation; the second output, the parts' lengths, is a constant."""
    parts = [c.value(call, i) for i in range(len(call.proto.input))]
    axis = call.attribute("axis", 0) % parts[0].rank
    if call.makes(1):
        c.constants[call.proto.output[1]] = np.array([part.shape[axis] for part in parts], np.int64)
    return [c.b.concat(parts, axis)]


@lowers("SplitTraining")
def split(c: ArtifactLowering, call: Call) -> Results:
    """Parts of the given lengths."""
    a, sizes = c.value(call, 0), [int(v) for v in c.constant(call, 1)]
    axis = call.attribute("axis", 0) % a.rank
    specs = [((*a.shape[:axis], size, *a.shape[axis + 1 :]), a.dtype) for size in sizes]
    return c.b.emit("Split", [a, c.b.ints(sizes)], specs, axis=axis)


# --- activations


@lowers("Relu")
def relu(c: ArtifactLowering, call: Call) -> Results:
    """Remembered by its input too, so that the gradient can be taken from the output."""
    x = c.value(call, 0)
    node = c.emit(call, "Relu", [x], [x.shape])
    c.forward[f"Relu of {call.name(0)}"] = node
    return [node.output]


@lowers("ReluGrad")
def relu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X or Y): positive together, so the output serves."""
    known = c.forward.get(f"Relu of {call.name(1)}")
    return _from_output(c, "Relu", known.output if known else c.value(call, 1), c.value(call, 0))


@lowers("TanhGrad", "SigmoidGrad")
def from_output(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y)."""
    return _from_output(c, call.op_type.removesuffix("Grad"), c.value(call, 1), c.value(call, 0))


@lowers("SoftmaxGrad_13", "LogSoftmaxGrad_13")
def softmax_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y), along one axis."""
    y, op_type = c.value(call, 1), call.op_type.removesuffix("Grad_13")
    return _from_output(c, op_type, y, c.value(call, 0), axis=call.attribute("axis", -1) % y.rank)


@lowers("SoftmaxGrad", "LogSoftmaxGrad")
def flat_softmax_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y) of the operators before opset 13, which treat their input as a matrix cut at `axis`."""
    y, axis = c.value(call, 1), call.attribute("axis", 1)
    matrix = (math.prod(y.shape[: axis % y.rank]), math.prod(y.shape[axis % y.rank :]))
    flat = [c.view(v, matrix) for v in (y, c.value(call, 0))]
    return [c.view(_from_output(c, call.op_type.removesuffix("Grad"), *flat, axis=1)[0], y.shape)]


def _with_bias(c: ArtifactLowering, call: Call, position: int) -> Value:
    x = c.value(call, position)
    return c.b.add(x, c.value(call, position + 1)) if call.has(position + 1) else x


_APPROXIMATE = {"Gelu": "none", "BiasGelu": "none", "FastGelu": "tanh", "BiasFastGelu": "tanh"}


@lowers(*_APPROXIMATE)
def gelu(c: ArtifactLowering, call: Call) -> Results:
    """(X, bias): exact, or fast by tanh."""
    x = _with_bias(c, call, 0)
    default = _APPROXIMATE[call.op_type]
    return [c.emit(call, "Gelu", [x], [x.shape], approximate=call.attribute("approximate", default)).output]


@lowers("GeluGrad", "FastGeluGrad", "BiasGeluGrad_dX", "BiasFastGeluGrad_dX")
def gelu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, bias): from the input."""
    fast = "Fast" in call.op_type
    return _from_input(c, "Gelu", _with_bias(c, call, 1), c.value(call, 0), approximate="tanh" if fast else "none")


@lowers("QuickGelu")
def quick_gelu(c: ArtifactLowering, call: Call) -> Results:
    """x sigmoid(alpha x) (Hendrycks and Gimpel, 2016)."""
    x, alpha = c.value(call, 0), float(call.attribute("alpha", 1.702))
    return [c.b.mul(x, c.b.unary("Sigmoid", c.b.mul(x, alpha)))]


@lowers("QuickGeluGrad")
def quick_gelu_grad(c: ArtifactLowering, call: Call) -> Results:
    """dx = dy s (1 + alpha x (1 - s)) with s = sigmoid(alpha x)."""
    dy, x, alpha, b = c.value(call, 0), c.value(call, 1), float(call.attribute("alpha", 1.702)), c.b
    u = b.mul(x, alpha)
    s = b.unary("Sigmoid", u)
    return [b.mul(b.mul(b.add(b.mul(u, b.sub(1.0, s)), 1.0), s), dy)]


@lowers("LeakyReluGrad")
def leaky_relu_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, Y)."""
    alpha = float(call.attribute("alpha", 0.01))
    return _from_output(c, "LeakyRelu", c.value(call, 1), c.value(call, 0), alpha=alpha)


@lowers("DropoutGrad")
def dropout_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, mask, ratio, training): by the mask of the forward operator."""
    return [gradients_of(c.b, c.forward_of(call, call.name(1)), [c.value(call, 0)], [0])[0]]


# --- convolutions, pools, normalisation


@lowers("ConvGrad", "ConvTransposeGrad")
def conv_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, W) to (dX, dW, dB)."""
    dy, x, w = (c.value(call, i) for i in range(3))
    op_type = call.op_type.removesuffix("Grad")
    group = int(call.attribute("group", 1))
    channels = dy.shape[1]
    node = forward_node(
        c.b, c.table, op_type, [x, w, Value("", (channels,), w.dtype)], [dy], **{**call.attributes, "group": group}
    )
    return _gradients(c, call, node, dy, {0: 0, 1: 1, 2: 2})


@lowers("MaxPoolGrad")
def max_pool_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, indices): the forward operator knows both where the maxima are and the input's shape."""
    return [gradients_of(c.b, c.forward_of(call, call.name(1)), [c.value(call, 0)], [0])[0]]


@lowers("AveragePool")
def average_pool(c: ArtifactLowering, call: Call) -> Results:
    """Remembered, because its gradient operator does not say the input's shape."""
    x = c.value(call, 0)
    ((shape, _),) = c.inferred(call)
    return [c.emit(call, "AveragePool", [x], [shape], **call.attributes).output]


@lowers("AveragePoolGrad")
def average_pool_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY): the forward operator is the one its name starts with."""
    forward = call.proto.name.partition("_Grad/")[0]
    return [gradients_of(c.b, c.forward_of(call, forward), [c.value(call, 0)], [0])[0]]


@lowers("BatchNormInternal", "BatchNormalization")
def batch_norm(c: ArtifactLowering, call: Call) -> Results:
    """(X, scale, B, running mean, running variance); the running statistics move with the biased variance."""
    inputs = [c.value(call, i) for i in range(5)]
    training = int(call.attribute("training_mode", int(call.op_type == "BatchNormInternal")))
    epsilon, momentum = float(call.attribute("epsilon", 1e-5)), float(call.attribute("momentum", 0.9))
    shapes = [inputs[0].shape, *([inputs[3].shape] * 2 if training and call.makes(1) and call.makes(2) else [])]
    names = [call.proto.output[0], *(f"{statistic.name}.next" for statistic in inputs[3:])]
    node = c.emit(
        call, "BatchNormalization", inputs, shapes, names, training_mode=training, epsilon=epsilon, momentum=momentum
    )
    return [node.output]


@lowers("BatchNormalizationGrad")
def batch_norm_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, scale, mean, inverse deviation) to (dX, dscale, dB)."""
    return _gradients(c, call, c.forward_of(call, call.name(3)), c.value(call, 0), {0: 0, 1: 1, 2: 2})


@lowers("LayerNormalization")
def layer_norm(c: ArtifactLowering, call: Call) -> Results:
    """(X, scale, B) to (Y, mean, inverse deviation): its gradient computes the statistics anew."""
    inputs = [c.value(call, i) for i in range(len(call.proto.input)) if call.has(i)]
    axis, epsilon = int(call.attribute("axis", -1)), float(call.attribute("epsilon", 1e-5))
    return [c.emit(call, "LayerNormalization", inputs, [inputs[0].shape], axis=axis, epsilon=epsilon).output]


@lowers("LayerNormalizationGrad")
def layer_norm_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, X, scale, mean, inverse deviation) to (dX, dscale, dB)."""
    return _gradients(c, call, c.forward_of(call, call.name(3)), c.value(call, 0), {0: 0, 1: 1, 2: 2})


# --- indexing


def _indexed(c: ArtifactLowering, call: Call, op_type: str, positions: tuple[int, int, int]) -> Results:
    """The gradient of Gather or GatherElements from (dY, shape, indices) at `positions`."""
    dy, indices = c.value(call, positions[0]), c.value(call, positions[2])
    source = Value("", tuple(int(d) for d in c.constant(call, positions[1])), dy.dtype)
    node = forward_node(c.b, c.table, op_type, [source, indices], [dy], axis=int(call.attribute("axis", 0)))
    return [gradients_of(c.b, node, [dy], [0])[0]]


@lowers("GatherGrad")
def gather_grad(c: ArtifactLowering, call: Call) -> Results:
    """(shape, indices, dY)."""
    return _indexed(c, call, "Gather", (2, 0, 1))


@lowers("GatherElementsGrad")
def gather_elements_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, shape, indices)."""
    return _indexed(c, call, "GatherElements", (0, 1, 2))


@lowers("SliceGrad")
def slice_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, shape, starts, ends, axes, steps)."""
    dy = c.value(call, 0)
    source = Value("", tuple(int(d) for d in c.constant(call, 1)), dy.dtype)
    limits = [c.b.ints(c.constant(call, i)) for i in range(2, len(call.proto.input)) if call.has(i)]
    node = forward_node(c.b, c.table, "Slice", [source, *limits], [dy])
    return [gradients_of(c.b, node, [dy], [0])[0]]


# --- cross-entropy


def _ignored(c: ArtifactLowering, call: Call, weights: int) -> int | None:
    """The label that counts for nothing: an attribute of the standard operator, an input of the internal one.

    Raises ModelError for class weights, the input before it.
    """
    if call.has(weights):
        raise ModelError(f"{call.where}: class weights are not supported")
    if "Internal" in call.op_type and call.has(weights + 1):
        return int(c.constant(call, weights + 1))
    found = call.attribute("ignore_index", None)
    return None if found is None else int(found)


@lowers("SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossInternal")
def cross_entropy(c: ArtifactLowering, call: Call) -> Results:
    """(scores, labels, weights, ignored label) to (loss, log-probabilities)."""
    scores, labels = c.value(call, 0), c.value(call, 1)
    c.index_sizes.setdefault(labels.name, scores.shape[1])
    logp = c.b.unary("LogSoftmax", scores, axis=1)
    read = read_labels(c.b, logp, labels, _ignored(c, call, 2))
    return [likelihood(c.b, logp, read, call.attribute("reduction", "mean")), logp]


@lowers("SoftmaxCrossEntropyLossGrad", "SoftmaxCrossEntropyLossInternalGrad")
def cross_entropy_grad(c: ArtifactLowering, call: Call) -> Results:
    """(dY, log-probabilities, labels, weights, ignored label)."""
    dy, logp, labels = (c.value(call, i) for i in range(3))
    read = read_labels(c.b, logp, labels, _ignored(c, call, 3))
    share = label_gradient(c.b, read, call.attribute("reduction", "mean"), dy)
    return [likelihood_gradient(c.b, logp, read.index, share)]
