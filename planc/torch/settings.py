"""What a torch.optim optimizer means to planc: one update rule per parameter, and the state it has gathered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from planc.errors import UsageError
from planc.training.emit.builder import Array
from planc.training.optimizers import STEP, Optimizer
from planc.training.step_options import ParameterGroup, StepOptions

SLOTS: dict[type[torch.optim.Optimizer], dict[str, str]] = {
    torch.optim.SGD: {"momentum_buffer": "momentum"},
    torch.optim.Adam: {"exp_avg": "moment1", "exp_avg_sq": "moment2", "max_exp_avg_sq": "moment2_max"},
    torch.optim.AdamW: {"exp_avg": "moment1", "exp_avg_sq": "moment2", "max_exp_avg_sq": "moment2_max"},
    torch.optim.RMSprop: {"square_avg": "square", "grad_avg": "mean", "momentum_buffer": "momentum"},
    torch.optim.Adagrad: {"sum": "sum"},
    torch.optim.Adafactor: {"row_var": "row", "col_var": "column", "variance": "variance"},
    torch.optim.Muon: {"momentum_buffer": "momentum"},
}
"""torch's names of optimizer state and planc's suffixes."""

_LION = {"exp_avg": "momentum"}
"""Of the Lion that several packages bring, by the name of its class."""


@dataclass(frozen=True)
class Settings:
    """The parameter groups, initial optimizer state by planc's state name, and the options of the step.

    `held` names parameters and buffers that are state although nothing changes them, as in evaluation.
    """

    groups: Sequence[ParameterGroup]
    initial: Mapping[str, Array] = field(default_factory=dict)
    options: StepOptions = field(default_factory=StepOptions)
    held: frozenset[str] = frozenset()


def settings_of(
    optimizer: Optimizer | torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    named: Mapping[str, torch.Tensor],
    options: StepOptions | None = None,
) -> Settings:
    """The settings for the parameters `named`; several optimizers contribute their groups one after the other.

    Parameters that a torch optimizer does not hold get no rule and stay as they are. Raises UsageError for an optimizer
    or an option that planc has no update rule for.
    """
    options = options or StepOptions()
    if isinstance(optimizer, Optimizer):
        return Settings([ParameterGroup(optimizer, list(named))], options=options)
    name_of = {id(tensor): name for name, tensor in reversed(list(named.items()))}
    groups, initial = [], dict[str, Array]()
    for one in listed(optimizer):
        for group in one.param_groups:
            members = [p for p in group["params"] if id(p) in name_of]
            groups.append(ParameterGroup(rule_of(one, group), [name_of[id(p)] for p in members]))
            for parameter in members:
                initial.update(_gathered(one, name_of[id(parameter)], one.state.get(parameter, {})))
    if not any(group.members for group in groups):
        raise UsageError("the optimizer holds none of the module's parameters: build it from model.parameters()")
    return Settings(groups, initial, options)


def listed(optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """One or several optimizers as a list."""
    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)


def slots_of(optimizer: torch.optim.Optimizer) -> Mapping[str, str]:
    """planc's suffix of each tensor of an optimizer's state, by torch's name."""
    return next((slots for kind, slots in SLOTS.items() if isinstance(optimizer, kind)), _LION)


def rule_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Optimizer:
    """The update rule of one parameter group. Raises UsageError for an optimizer without one."""
    for kind, rule in _RULES.items():
        if isinstance(optimizer, kind):
            if type(optimizer).step is not kind.step:
                raise UsageError(f"{type(optimizer).__name__} has a step of its own, which planc cannot see")
            return rule(group)
    if type(optimizer).__name__ == "Lion":
        return Optimizer("lion", **_common(group), betas=_pair(group["betas"]))
    known = ", ".join([*(kind.__name__ for kind in _RULES), "Lion"])
    raise UsageError(f"no update rule for {type(optimizer).__name__}: planc has {known}")


def hyperparameters_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a parameter group that may change from step to step, by planc's names of the inputs."""
    found = {name: float(group[name]) for name in ("lr", "weight_decay", "momentum", "alpha") if name in group}
    if "betas" in group:
        found["beta1"], found["beta2"] = _pair(group["betas"])
    return found


def _common(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "learning_rate": float(group["lr"]),
        "weight_decay": float(group["weight_decay"]),
        "maximize": bool(group.get("maximize")),
    }


def _pair(betas: Any) -> tuple[float, float]:
    return float(betas[0]), float(betas[1])


def _sgd(group: Mapping[str, Any]) -> Optimizer:
    momentum = float(group["momentum"])
    if not momentum:
        return Optimizer("sgd", **_common(group), momentum=0.0)
    dampening, nesterov = float(group["dampening"]), bool(group["nesterov"])
    return Optimizer("momentum", **_common(group), momentum=momentum, dampening=dampening, nesterov=nesterov)


def _adam(kind: Literal["adam", "adamw"], group: Mapping[str, Any]) -> Optimizer:
    decoupled = kind == "adamw" or group.get("decoupled_weight_decay")
    betas, amsgrad = _pair(group["betas"]), bool(group["amsgrad"])
    return Optimizer(
        "adamw" if decoupled else "adam", **_common(group), betas=betas, epsilon=float(group["eps"]), amsgrad=amsgrad
    )


def _rmsprop(group: Mapping[str, Any]) -> Optimizer:
    return Optimizer(
        "rmsprop",
        **_common(group),
        momentum=float(group["momentum"]),
        alpha=float(group["alpha"]),
        epsilon=float(group["eps"]),
        centered=bool(group["centered"]),
    )


def _adagrad(group: Mapping[str, Any]) -> Optimizer:
    initial = float(group["initial_accumulator_value"])
    epsilon, decay = float(group["eps"]), float(group["lr_decay"])
    return Optimizer("adagrad", **_common(group), epsilon=epsilon, rate_decay=decay, initial_accumulator=initial)


def _adafactor(group: Mapping[str, Any]) -> Optimizer:
    first, second = group["eps"]
    return Optimizer(
        "adafactor",
        **_common(group),
        epsilon=None if first is None else float(first),
        scale_epsilon=float(second),
        beta2_decay=float(group["beta2_decay"]),
        clip_threshold=float(group["d"]),
    )


def _muon(group: Mapping[str, Any]) -> Optimizer:
    return Optimizer(
        "muon",
        **_common(group),
        momentum=float(group["momentum"]),
        nesterov=bool(group["nesterov"]),
        epsilon=float(group["eps"]),
        newton_schulz=tuple(group["ns_coefficients"]),
        newton_schulz_steps=int(group["ns_steps"]),
        rate_for_shape=group["adjust_lr_fn"] or "original",
    )


_RULES: dict[type[torch.optim.Optimizer], Callable[[Mapping[str, Any]], Optimizer]] = {
    torch.optim.SGD: _sgd,
    torch.optim.AdamW: partial(_adam, "adamw"),
    torch.optim.Adam: partial(_adam, "adam"),
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
    torch.optim.Adafactor: _adafactor,
    torch.optim.Muon: _muon,
}


def _gathered(optimizer: torch.optim.Optimizer, name: str, state: Mapping[str, Any]) -> dict[str, Array]:
    slots = slots_of(optimizer)
    kept = {slots[key]: value for key, value in state.items() if key in slots and value is not None}
    whole = {suffix: value.float() if value.element_size() < 4 else value for suffix, value in kept.items()}
    found = {f"{name}.{suffix}": value.detach().cpu().numpy().copy() for suffix, value in whole.items()}
    if "step" in state:
        found[STEP] = np.array(float(state["step"]), np.float32)
    return found
