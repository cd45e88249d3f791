"""What a torch.optim optimizer means to planc: one update rule per parameter, and the state it has gathered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from planc.errors import UsageError
from planc.training.emit.builder import Array
from planc.training.optimizers import STEP, Optimizer

SLOTS = {"momentum_buffer": "momentum", "exp_avg": "moment1", "exp_avg_sq": "moment2"}
"""torch's names of optimizer state and planc's suffixes."""

_UNSUPPORTED = ("nesterov", "amsgrad", "maximize", "dampening")


@dataclass(frozen=True)
class Settings:
    """The update rule of every trained parameter by name, and initial optimizer state by planc's state name."""

    rules: Mapping[str, Optimizer]
    initial: Mapping[str, Array] = field(default_factory=dict)


def settings_of(optimizer: Optimizer | torch.optim.Optimizer, named: Mapping[str, torch.Tensor]) -> Settings:
    """The settings for the parameters `named`.

    Parameters that a torch optimizer does not hold get no rule and stay as they are. Raises UsageError for an
    optimizer or an option that planc has no update rule for, and for parameter groups of different betas.
    """
    if isinstance(optimizer, Optimizer):
        return Settings(dict.fromkeys(named, optimizer))
    name_of = {id(tensor): name for name, tensor in reversed(list(named.items()))}
    rules: dict[str, Optimizer] = {}
    initial: dict[str, Array] = {}
    for group in optimizer.param_groups:
        rule = _rule(optimizer, group)
        for parameter in group["params"]:
            if id(parameter) in name_of:
                rules[name_of[id(parameter)]] = rule
                initial.update(_gathered(name_of[id(parameter)], optimizer.state.get(parameter, {})))
    if not rules:
        raise UsageError("the optimizer holds none of the module's parameters: build it from model.parameters()")
    if len({rule.betas for rule in rules.values()}) > 1:
        raise UsageError("parameter groups with different betas are not supported")
    return Settings(rules, initial)


def _rule(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Optimizer:
    kind = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}.get(type(optimizer))
    if kind is None:
        raise UsageError(f"no update rule for {type(optimizer).__name__}: planc has SGD, momentum, Adam and AdamW")
    for option in _UNSUPPORTED:
        if group.get(option):
            raise UsageError(f"{type(optimizer).__name__} with {option}={group[option]} is not supported")
    rate, decay = float(group["lr"]), float(group["weight_decay"])
    if kind == "sgd":
        momentum = float(group["momentum"])
        return Optimizer("momentum" if momentum else "sgd", rate, momentum, weight_decay=decay)
    decoupled = kind == "adamw" or group.get("decoupled_weight_decay")
    betas = (float(group["betas"][0]), float(group["betas"][1]))
    return Optimizer(
        "adamw" if decoupled else "adam", rate, betas=betas, epsilon=float(group["eps"]), weight_decay=decay
    )


def _gathered(name: str, state: Mapping[str, Any]) -> dict[str, Array]:
    kept = {SLOTS[key]: value for key, value in state.items() if key in SLOTS and value is not None}
    found = {f"{name}.{suffix}": value.detach().cpu().numpy().copy() for suffix, value in kept.items()}
    if "step" in state:
        found[STEP] = np.array(float(state["step"]), np.float32)
    return found
