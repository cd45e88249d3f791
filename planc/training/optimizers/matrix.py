"""Rules that look at a parameter as a matrix: Adafactor and Muon, in the forms of torch.optim."""

import math
from collections.abc import Mapping

import numpy as np
from onnx import helper

from planc.errors import UsageError
from planc.training.emit.builder import Builder, Shape, Var
from planc.training.optimizers.adaptive import counted
from planc.training.optimizers.optimizer import Optimizer
from planc.training.optimizers.rule import (
    Following,
    Kept,
    Rule,
    Scalars,
    Update,
    descending,
    keep_factor,
    register,
    shrunk,
    with_decay,
)  # fmt: skip


def _rms(b: Builder, a: Var) -> Var:
    """The root of the mean square of all elements, in the rank of `a`."""
    return b.reshape(b.unary("Sqrt", b.op("ReduceMean", [b.mul(a, a)], (), keepdims=0)), (1,) * a.rank)


def _most(b: Builder, a: Var, least: float) -> Var:
    """max(a, least)."""
    return b.op("Max", [a, b.scalar_for(least, a)], a.shape)


def _adafactor(u: Update) -> Following:
    """A second moment kept as a row and a column (Shazeer and Stern, 2018, algorithms 4 and 6).

    With r_t = min(lr, 1 / sqrt t), a = max(eps2, rms(w)) r_t, and u = g / sqrt(v) the update is
    w (1 - lr decay) - a u / max(1, rms(u) / d). v' = v + t^beta2_decay (g^2 - v), of a matrix in its row and column means.
    """
    b, o, grad = u.b, u.optimizer, descending(u)
    least = float(np.finfo(helper.tensor_dtype_to_np_dtype(u.parameter.dtype)).eps) if o.epsilon is None else o.epsilon
    square, following = b.mul(grad, grad), dict[str, Var]()
    if grad.rank > 1:
        row = following["row"] = _toward(u, "row", b.mean(square, [-1]))
        column = following["column"] = _toward(u, "column", b.mean(square, [-2]))
        estimate = b.div(b.matmul(row, column), _most(b, b.mean(row, [-2]), least))
    else:
        estimate = following["variance"] = _toward(u, "variance", square)
    moved = b.mul(b.unary("Reciprocal", b.unary("Sqrt", _most(b, estimate, least * least))), grad)
    size = b.mul(_most(b, _rms(b, u.parameter), o.scale_epsilon), u.scalar("relative"))
    size = b.div(size, _most(b, b.div(_rms(b, moved), o.clip_threshold), 1.0))
    return b.sub(shrunk(u), b.mul(moved, size)), following


def _toward(u: Update, suffix: str, value: Var) -> Var:
    """old + (value - old) t^beta2_decay."""
    old = u.state[suffix]
    weight = u.b.reshape(u.scalar("fresh"), (1,) * old.rank)
    return u.b.add(old, u.b.mul(u.b.sub(value, old), weight))


def _adafactor_state(_o: Optimizer, shape: Shape) -> list[Kept]:
    if len(shape) < 2:
        return [Kept("variance", shape)]
    return [Kept("row", (*shape[:-1], 1)), Kept("column", (*shape[:-2], 1, shape[-1]))]


def _adafactor_scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], step: Var | None) -> Scalars:
    t = counted(step)
    power = b.constant(np.array(o.beta2_decay, np.float64))
    relative = b.op("Min", [h["lr"], b.unary("Reciprocal", b.unary("Sqrt", t))], ())
    return {**h, "fresh": b.op("Pow", [t, power], ()), "relative": relative, **keep_factor(b, o, h)}


def _muon(u: Update) -> Following:
    """v' = mu v + (1 - mu) g; the orthogonal factor of v' is taken off (Jordan et al., 2024).

    With Nesterov that of mu v' + (1 - mu) g. The factor comes from a quintic Newton-Schulz iteration, which torch runs in
    bfloat16 and this in the parameter's type.
    """
    b, o = u.b, u.optimizer
    if u.parameter.rank != 2:
        raise UsageError(f"Muon updates matrices only; {u.parameter.name!r} has shape {list(u.parameter.shape)}")
    rest = u.scalar("momentum_rest")
    velocity = b.add(u.state["momentum"], b.mul(b.sub(u.grad, u.state["momentum"]), rest))
    looked = b.add(u.grad, b.mul(b.sub(velocity, u.grad), u.scalar("momentum"))) if o.nesterov else velocity
    rate = b.mul(u.scalar("lr"), _rate_for(o, u.parameter.shape))
    return b.sub(shrunk(u), b.mul(_orthogonal(b, o, looked), rate)), {"momentum": velocity}


def _rate_for(o: Optimizer, shape: Shape) -> float:
    rows, columns = shape
    return 0.2 * math.sqrt(max(shape)) if o.rate_for_shape == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def _orthogonal(b: Builder, o: Optimizer, a: Var) -> Var:
    """X <- c1 X + (c2 X X^T + c3 (X X^T)^2) X, from X = a / max(|a|, eps), wide rather than tall."""
    c1, c2, c3 = o.newton_schulz
    tall = a.shape[0] > a.shape[1]
    x = b.transpose(a, (1, 0)) if tall else a
    norm = b.unary("Sqrt", b.op("ReduceSumSquare", [x], (), keepdims=0))
    x = b.div(x, b.reshape(_most(b, norm, o.eps), (1, 1)))
    for _ in range(o.newton_schulz_steps):
        gram = b.gemm(x, x, trans_b=True)
        x = b.add(b.mul(x, c1), b.gemm(b.add(b.mul(gram, c2), b.mul(b.gemm(gram, gram), c3)), x))
    return b.transpose(x, (1, 0)) if tall else x


def _muon_scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], _step: Var | None) -> Scalars:
    return {**h, "momentum_rest": b.sub(1.0, h["momentum"]), **keep_factor(b, o, h)}


register("adafactor", Rule(with_decay, _adafactor_state, _adafactor_scalars, _adafactor, lambda _: True))
register(
    "muon",
    Rule(
        inputs=lambda o: with_decay(o, momentum=o.momentum),
        state=lambda _o, shape: [Kept("momentum", shape)],
        scalars=_muon_scalars,
        update=_muon,
    ),
)
