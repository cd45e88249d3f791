"""Optimizer steps as ONNX nodes; the formulas and defaults are those of torch.optim (PyTorch 2.13)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from onnx import helper

from planc.errors import UsageError
from planc.training.emit.builder import Array, Builder, Var

Kind = Literal["sgd", "momentum", "adam", "adamw"]

STEP = "optimizer.step"
"""Name of the step count of Adam and AdamW: a float32 scalar, 0 before the first step."""


@dataclass(frozen=True)
class Optimizer:
    """An update rule and its hyperparameters.

    `weight_decay` is added to the gradient (L2) except for `adamw`, which shrinks the parameter (Loshchilov and
    Hutter, 2019). `momentum` is used by kind `momentum` only, `betas` and `epsilon` by the Adam kinds only.
    Raises UsageError for values outside their range.
    """

    kind: Kind = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"unknown optimizer {self.kind!r}: choose one of {', '.join(get_args(Kind))}")
        if self.learning_rate < 0 or self.weight_decay < 0 or self.epsilon < 0:
            raise UsageError("learning rate, weight decay and epsilon of an optimizer must not be negative")
        if not all(0 <= v < 1 for v in (self.momentum, *self.betas)):
            raise UsageError("momentum and betas of an optimizer must lie in [0, 1)")


@dataclass(frozen=True)
class StateSlot:
    """One optimizer state tensor of a parameter: its input name, next-value name and initial value."""

    name: str
    following: str
    initial: Array


@dataclass(frozen=True)
class StepScales:
    """Values of this step that depend on the step count alone, both scalars.

    `step_size` = lr / (1 - beta1^t); `root_correction` = 1 / sqrt(1 - beta2^t).
    """

    step_size: Var
    root_correction: Var


def slots(optimizer: Optimizer, parameter: Var) -> list[StateSlot]:
    """The state that `optimizer` keeps for a parameter, all zeros at first and of its shape and type."""
    suffixes = {"sgd": [], "momentum": ["momentum"], "adam": ["moment1", "moment2"], "adamw": ["moment1", "moment2"]}
    names = [f"{parameter.name}.{suffix}" for suffix in suffixes[optimizer.kind]]
    dtype = helper.tensor_dtype_to_np_dtype(parameter.dtype)
    return [StateSlot(name, f"{name}.next", np.zeros(parameter.shape, dtype)) for name in names]


def uses_step_count(optimizer: Optimizer) -> bool:
    return optimizer.kind in ("adam", "adamw")


def emit_step_count(b: Builder, optimizer: Optimizer, step: Var) -> tuple[Var, StepScales]:
    """The next step count t and the bias corrections of Adam (Kingma and Ba, 2015, algorithm 1) for it."""
    following = b.add(step, 1.0, name=f"{STEP}.next")
    beta1, beta2 = (b.constant(np.array(beta, np.float32)) for beta in optimizer.betas)
    first, second = (b.sub(1.0, b.op("Pow", [beta, following], ())) for beta in (beta1, beta2))
    return following, StepScales(b.div(optimizer.learning_rate, first), b.unary("Reciprocal", b.unary("Sqrt", second)))


def emit_update(
    b: Builder, optimizer: Optimizer, parameter: Var, grad: Var, state: list[Var], scales: StepScales | None
) -> list[Var]:
    """The next values of [parameter, *state], named `<input>.next`; each last reads the tensor it replaces."""
    rules: dict[str, Callable[..., list[Var]]] = {"sgd": _sgd, "momentum": _momentum, "adam": _adam, "adamw": _adam}
    if optimizer.weight_decay and optimizer.kind != "adamw":
        grad = b.add(grad, b.mul(parameter, optimizer.weight_decay))
    return rules[optimizer.kind](b, optimizer, parameter, grad, state, scales)


def _next(value: Var) -> str:
    return f"{value.name}.next"


def _sgd(b: Builder, o: Optimizer, w: Var, grad: Var, _state: list[Var], _scales: None) -> list[Var]:
    """w - lr g."""
    return [b.sub(w, b.mul(grad, o.learning_rate), name=_next(w))]


def _momentum(b: Builder, o: Optimizer, w: Var, grad: Var, state: list[Var], _scales: None) -> list[Var]:
    """v' = mu v + g; w - lr v' (Sutskever et al., 2013, in torch's form)."""
    velocity = b.add(b.mul(state[0], o.momentum), grad, name=_next(state[0]))
    return [b.sub(w, b.mul(velocity, o.learning_rate), name=_next(w)), velocity]


def _adam(b: Builder, o: Optimizer, w: Var, grad: Var, state: list[Var], scales: StepScales) -> list[Var]:
    """m' = b1 m + (1-b1) g; v' = b2 v + (1-b2) g^2; w - step_size m' / (sqrt(v') root_correction + eps)."""
    beta1, beta2 = o.betas
    first = b.add(b.mul(state[0], beta1), b.mul(grad, 1 - beta1), name=_next(state[0]))
    second = b.add(b.mul(state[1], beta2), b.mul(b.mul(grad, grad), 1 - beta2), name=_next(state[1]))
    ones = (1,) * w.rank
    step_size, correction = (b.reshape(v, ones) for v in (scales.step_size, scales.root_correction))
    scale = b.add(b.mul(b.unary("Sqrt", second), correction), o.epsilon)
    kept = b.mul(w, 1 - o.learning_rate * o.weight_decay) if o.kind == "adamw" else w
    return [b.sub(kept, b.mul(b.div(first, scale), step_size), name=_next(w)), first, second]


def step_count_slot() -> StateSlot:
    """The step count's state, shape ()."""
    return StateSlot(STEP, f"{STEP}.next", np.zeros((), np.float32))
