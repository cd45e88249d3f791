"""Rules that scale each element by its own history: Adam's family, RMSprop, Adagrad, Lion."""

from collections.abc import Mapping

from onnx import TensorProto

from planc.errors import InternalError
from planc.kernels.adam import ADAM, SCALARS
from planc.training.emit.builder import Builder, Shape, Var
from planc.training.optimizers.optimizer import Optimizer
from planc.training.optimizers.rule import (
    Following,
    Kept,
    Rule,
    Scalars,
    Update,
    blend,
    complement,
    decayed,
    descending,
    keep_factor,
    register,
    shrunk,
    with_decay,
)  # fmt: skip


def counted(step: Var | None) -> Var:
    """The step count of a rule that counts."""
    if step is None:
        raise InternalError("a rule that counts steps was given no count")
    return step


def unbiased(b: Builder, h: Mapping[str, Var], step: Var | None) -> tuple[Var, Var]:
    """1 - beta1^t and sqrt(1 - beta2^t): Adam's bias corrections (Kingma and Ba, 2015, algorithm 1)."""
    first, second = (b.sub(1.0, b.op("Pow", [h[name], counted(step)], ())) for name in ("beta1", "beta2"))
    return first, b.unary("Sqrt", second)


def _adam_scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], step: Var | None) -> Scalars:
    scalars = {**h, **complement(b, h, "beta1", "beta2"), **(keep_factor(b, o, h) if o.kind == "adamw" else {})}
    if not o.bias_correction:
        return {**scalars, "step_size": h["lr"]}
    first, root = unbiased(b, h, step)
    if o.decay_last:
        return {**scalars, "step_size": b.div(b.mul(h["lr"], root), first)}
    return {**scalars, "step_size": b.div(h["lr"], first), "root": b.unary("Reciprocal", root)}


def _adam(u: Update) -> Following:
    """m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2; w - lr / (1 - b1^t) m' / (sqrt(v') / sqrt(1 - b2^t) + eps).

    AMSGrad divides by the largest v' so far (Reddi et al., 2018). With `decay_last`,
    w' = (w - lr sqrt(1 - b2^t) / (1 - b1^t) m' / (sqrt(v') + eps)) (1 - lr decay).
    """
    b, o = u.b, u.optimizer
    decoupled = o.kind == "adamw"
    grad = descending(u) if decoupled else decayed(u)
    if u.packed is not None and _as_operator(u):
        operands = [u.parameter, u.state["moment1"], u.state["moment2"], grad, u.packed(SCALARS)]
        parameter, first, second = b.kernel(ADAM, operands, eps=o.eps)
        return parameter, {"moment1": first, "moment2": second}
    first = blend(u, u.state["moment1"], grad, "beta1")
    second = blend(u, u.state["moment2"], b.mul(grad, grad), "beta2")
    following = {"moment1": first, "moment2": second}
    if o.amsgrad:
        following["moment2_max"] = b.op("Max", [u.state["moment2_max"], second], second.shape)
    root = b.unary("Sqrt", following.get("moment2_max", second))
    if o.bias_correction and not o.decay_last:
        root = b.mul(root, u.scalar("root"))
    moved = b.mul(b.div(first, b.add(root, o.eps)), u.scalar("step_size"))
    if o.decay_last and o.weight_decay:
        return b.mul(b.sub(u.parameter, moved), u.scalar("keep")), following
    return b.sub(shrunk(u) if decoupled else u.parameter, moved), following


def _as_operator(u: Update) -> bool:
    """Whether planc's own operator computes the update: the plain rule in float32, whose decay the scalars or g hold."""
    o = u.optimizer
    return (
        {u.parameter.dtype, u.grad.dtype} == {TensorProto.FLOAT}
        and u.parameter.size > 0
        and o.bias_correction
        and not o.amsgrad
        and not o.decay_last
    )


def _adam_state(o: Optimizer, shape: Shape) -> list[Kept]:
    return [Kept("moment1", shape), Kept("moment2", shape), *([Kept("moment2_max", shape)] if o.amsgrad else [])]


def _betas(o: Optimizer) -> dict[str, float]:
    return with_decay(o, beta1=o.betas[0], beta2=o.betas[1])


def _rmsprop(u: Update) -> Following:
    """s' = a s + (1-a) g^2; w - lr g / (sqrt(s') + eps) (Tieleman and Hinton, 2012).

    Centered: the variance s' - m'^2 with m' = a m + (1-a) g in its place (Graves, 2013). With momentum, v' = mu v + that
    quotient is taken off.
    """
    b, o, grad = u.b, u.optimizer, decayed(u)
    square = blend(u, u.state["square"], b.mul(grad, grad), "alpha")
    following = {"square": square}
    spread = square
    if o.centered:
        following["mean"] = mean = blend(u, u.state["mean"], grad, "alpha")
        spread = b.sub(square, b.mul(mean, mean))
    moved = b.div(grad, b.add(b.unary("Sqrt", spread), o.eps))
    if o.momentum:
        following["momentum"] = moved = b.add(b.mul(u.state["momentum"], u.scalar("momentum")), moved)
    return b.sub(u.parameter, b.mul(moved, u.scalar("lr"))), following


def _rmsprop_state(o: Optimizer, shape: Shape) -> list[Kept]:
    suffixes = ["square", *(["mean"] if o.centered else []), *(["momentum"] if o.momentum else [])]
    return [Kept(suffix, shape) for suffix in suffixes]


def _adagrad(u: Update) -> Following:
    """s' = s + g^2; w - lr / (1 + (t-1) decay) g / (sqrt(s') + eps) (Duchi et al., 2011)."""
    b, grad = u.b, decayed(u)
    total = b.add(u.state["sum"], b.mul(grad, grad))
    moved = b.div(grad, b.add(b.unary("Sqrt", total), u.optimizer.eps))
    return b.sub(u.parameter, b.mul(moved, u.scalar("lr"))), {"sum": total}


def _adagrad_scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], step: Var | None) -> Scalars:
    if not o.rate_decay:
        return dict(h)
    slower = b.add(b.mul(b.sub(counted(step), 1.0), o.rate_decay), 1.0)
    return {**h, "lr": b.div(h["lr"], slower)}


def _lion(u: Update) -> Following:
    """w (1 - lr decay) - lr sign(b1 m + (1-b1) g); m' = b2 m + (1-b2) g (Chen et al., 2023)."""
    b, grad = u.b, descending(u)
    direction = b.unary("Sign", blend(u, u.state["momentum"], grad, "beta1"))
    following = {"momentum": blend(u, u.state["momentum"], grad, "beta2")}
    return b.sub(shrunk(u), b.mul(direction, u.scalar("lr"))), following


def _lion_scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], _step: Var | None) -> Scalars:
    return {**h, **complement(b, h, "beta1", "beta2"), **keep_factor(b, o, h)}


def _corrects(o: Optimizer) -> bool:
    return o.bias_correction


register("adam", Rule(_betas, _adam_state, _adam_scalars, _adam, _corrects))
register("adamw", Rule(_betas, _adam_state, _adam_scalars, _adam, _corrects))
register(
    "rmsprop",
    Rule(
        inputs=lambda o: with_decay(o, alpha=o.alpha, **({"momentum": o.momentum} if o.momentum else {})),
        state=_rmsprop_state,
        scalars=lambda b, _o, h, _step: {**h, **complement(b, h, "alpha")},
        update=_rmsprop,
    ),
)
register(
    "adagrad",
    Rule(
        inputs=with_decay,
        state=lambda o, shape: [Kept("sum", shape, o.initial_accumulator)],
        scalars=_adagrad_scalars,
        update=_adagrad,
        counts=lambda o: bool(o.rate_decay),
    ),
)
register("lion", Rule(_betas, lambda _o, shape: [Kept("momentum", shape)], _lion_scalars, _lion))
