"""The hyper-parameters of torch's optimizers, as a planned step takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from planc.errors import UsageError
from planc.torch.settings import hyperparameters_of, rule_of
from planc.training.optimizers import Optimizer

Values = Mapping[str, tuple[float | None, ...]]


class Hyperparameters:
    """Reads parameter groups before each step, and notices what a compiled step cannot follow."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._fixed = [_fixed(rule_of(o, group)) for o, group in self._groups()]

    def _groups(self) -> list[tuple[torch.optim.Optimizer, dict[str, Any]]]:
        return [(optimizer, group) for optimizer in self._optimizers for group in optimizer.param_groups]

    def current(self, known: Values) -> dict[str, list[float | None]]:
        """The numbers of every parameter group, for the hyper-parameters that are inputs of the step.

        Raises UsageError for a setting that was compiled in and has changed since.
        """
        groups = self._groups()
        if len(groups) != len(self._fixed):
            raise UsageError(
                "the optimizer has other parameter groups than when the step was compiled; compile it again"
            )
        for at, (optimizer, group) in enumerate(groups):
            if _fixed(rule_of(optimizer, group)) != self._fixed[at]:
                raise UsageError(
                    f"parameter group {at} of {type(optimizer).__name__} has settings that were others when the step was "
                    "compiled (weight decay or momentum that was 0, eps, nesterov, ...); compile it again"
                )
        values = [hyperparameters_of(group) for _, group in groups]
        return {
            name: [
                v.get(name) if listed[at if len(listed) > 1 else 0] is not None else None for at, v in enumerate(values)
            ]
            for name, listed in known.items()
            if any(name in v for v in values)
        }

    def put_back(self, values: Values) -> None:
        """Set the parameter groups to the step's hyper-parameters."""
        for at, (_, group) in enumerate(self._groups()):
            for name, listed in values.items():
                value = listed[at] if at < len(listed) else None
                if value is None:
                    continue
                if name in ("beta1", "beta2"):
                    first, second = group["betas"]
                    group["betas"] = (value, second) if name == "beta1" else (first, value)
                elif name in group:
                    group[name] = value

    def stepped(self) -> None:
        """Tell torch's schedulers that the optimizers have stepped."""
        for optimizer in self._optimizers:
            optimizer._opt_called = True  # what schedulers look at before they warn


def _fixed(rule: Optimizer) -> Optimizer:
    """The rule without what the step takes as inputs."""
    return replace(
        rule,
        learning_rate=0.0,
        momentum=0.5 if rule.momentum else 0.0,
        betas=(0.0, 0.0),
        alpha=0.0,
        weight_decay=float(bool(rule.weight_decay)),
    )
