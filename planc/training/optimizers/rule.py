"""The form of an update rule, and the register of all of them.

A rule says which of its settings change from step to step (they become inputs of the graph), which state it keeps, how
the scalars of one step follow from settings and step count, and what one parameter's update is. Scalars are computed
in float64, as torch.optim computes them in Python, once for all parameters of a group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from planc.registry import Registry
from planc.training.emit.builder import Array, Builder, Shape, Var
from planc.training.optimizers.optimizer import Kind, Optimizer

Scalars = dict[str, Var]
"""float64 scalars by name."""


@dataclass(frozen=True)
class StateSlot:
    """One optimizer state tensor of a parameter: its input name and its initial value."""

    name: str
    initial: Array


@dataclass(frozen=True)
class Kept:
    """State that a rule keeps for a parameter: the suffix of its name, its shape, what it is filled with at first."""

    suffix: str
    shape: Shape
    fill: float = 0.0


@dataclass(frozen=True)
class Update:
    """One parameter's update under construction. `scalar` gives a scalar of the step in the parameter's type and rank,
    `packed` several of them in a vector, where planc's own operators compute updates."""

    b: Builder
    optimizer: Optimizer
    parameter: Var
    grad: Var
    state: Mapping[str, Var]
    scalar: Callable[[str], Var]
    packed: Callable[[Sequence[str]], Var] | None = None


Following = tuple[Var, dict[str, Var]]
"""The next value of the parameter, and those of the rule's state by suffix."""


@dataclass(frozen=True)
class Rule:
    """How one kind of optimizer updates.

    `inputs`: settings that enter the graph as inputs, by the names of torch's parameter groups. `state`: what is kept
    for a parameter of a shape. `scalars`: from those inputs and the step count (float64, None where `counts` is false)
    to what updates read. `update`: one parameter's step.
    """

    inputs: Callable[[Optimizer], dict[str, float]]
    state: Callable[[Optimizer, Shape], list[Kept]]
    scalars: Callable[[Builder, Optimizer, Mapping[str, Var], Var | None], Scalars]
    update: Callable[[Update], Following]
    counts: Callable[[Optimizer], bool] = lambda _: False


RULES: Registry[Kind, Rule] = Registry("the update rule of")


def register(kind: Kind, rule: Rule) -> None:
    """Add the rule of `kind`."""
    RULES.add([kind], rule)


def hyperparameters(optimizer: Optimizer) -> dict[str, float]:
    """The settings that are inputs of the graph, by name, with their values at first."""
    return RULES[optimizer.kind].inputs(optimizer)


def uses_step_count(optimizer: Optimizer) -> bool:
    """Whether the rule depends on the number of steps done."""
    return RULES[optimizer.kind].counts(optimizer)


def slots(optimizer: Optimizer, parameter: Var) -> dict[str, StateSlot]:
    """The state that `optimizer` keeps for a parameter, by suffix, in the parameter's type."""
    dtype = helper.tensor_dtype_to_np_dtype(parameter.dtype)
    kept = RULES[optimizer.kind].state(optimizer, parameter.shape)
    return {k.suffix: StateSlot(f"{parameter.name}.{k.suffix}", np.full(k.shape, k.fill, dtype)) for k in kept}


def descending(u: Update) -> Var:
    """The gradient of what is minimised: negated for maximising."""
    return u.b.unary("Neg", u.grad) if u.optimizer.maximize else u.grad


def decayed(u: Update) -> Var:
    """The gradient of what is minimised, with that of the penalty, decay times w, where there is one (L2)."""
    grad = descending(u)
    return u.b.add(grad, u.b.mul(u.parameter, u.scalar("weight_decay"))) if u.optimizer.weight_decay else grad


def shrunk(u: Update) -> Var:
    """w (1 - lr decay), w itself without decay (Loshchilov and Hutter, 2019)."""
    return u.b.mul(u.parameter, u.scalar("keep")) if u.optimizer.weight_decay else u.parameter


def with_decay(o: Optimizer, **inputs: float) -> dict[str, float]:
    """`inputs`, and the weight decay where it is used at all."""
    return {"lr": o.learning_rate, **inputs, **({"weight_decay": o.weight_decay} if o.weight_decay else {})}


def keep_factor(b: Builder, o: Optimizer, h: Mapping[str, Var]) -> Scalars:
    """1 - lr decay as `keep`, where there is decay."""
    return {"keep": b.sub(1.0, b.mul(h["lr"], h["weight_decay"]))} if o.weight_decay else {}


def blend(u: Update, old: Var, new: Var, name: str) -> Var:
    """old c + new (1 - c) for the scalar `name` c, with its complement `name` + '_rest'."""
    return u.b.add(u.b.mul(old, u.scalar(name)), u.b.mul(new, u.scalar(f"{name}_rest")))


def complement(b: Builder, h: Mapping[str, Var], *names: str) -> Scalars:
    """Each scalar of `names`, and 1 minus it as `name` + '_rest'."""
    return {n: h[n] for n in names} | {f"{n}_rest": b.sub(1.0, h[n]) for n in names}
