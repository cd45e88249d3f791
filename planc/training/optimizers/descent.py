"""Gradient descent with and without momentum, in the form of torch.optim.SGD."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from planc.training.emit.builder import Builder, Var
from planc.training.optimizers.optimizer import Optimizer
from planc.training.optimizers.rule import Following, Kept, Rule, Scalars, Update, decayed, register, with_decay


def _sgd(u: Update) -> Following:
    """w - lr g."""
    return u.b.sub(u.parameter, u.b.mul(decayed(u), u.scalar("lr"))), {}


def _momentum(u: Update) -> Following:
    """v' = mu v + (1 - dampening) g; w - lr v', with Nesterov w - lr (g + mu v') (Sutskever et al., 2013).

    The first step's v' is g, whatever the dampening.
    """
    b, grad = u.b, decayed(u)
    fresh = b.mul(grad, u.scalar("undamped")) if u.optimizer.dampening else grad
    velocity = b.add(b.mul(u.state["momentum"], u.scalar("momentum")), fresh)
    moved = b.add(grad, b.mul(velocity, u.scalar("momentum"))) if u.optimizer.nesterov else velocity
    return b.sub(u.parameter, b.mul(moved, u.scalar("lr"))), {"momentum": velocity}


def _scalars(b: Builder, o: Optimizer, h: Mapping[str, Var], step: Var | None) -> Scalars:
    if not o.dampening or step is None:
        return dict(h)
    first = b.compare("Equal", step, 1.0)
    one, damped = (b.constant(np.array(v, np.float64)) for v in (1.0, 1 - o.dampening))
    return {**h, "undamped": b.op("Where", [first, one, damped], (), TensorProto.DOUBLE)}


register("sgd", Rule(with_decay, lambda _o, _shape: [], lambda _b, _o, h, _step: dict(h), _sgd))
register(
    "momentum",
    Rule(
        inputs=lambda o: with_decay(o, momentum=o.momentum),
        state=lambda _o, shape: [Kept("momentum", shape)],
        scalars=_scalars,
        update=_momentum,
        counts=lambda o: bool(o.dampening),
    ),
)
