"""Notices what was changed outside of a compiled step and would not take part in the next one."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from planc.errors import UsageError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_AGAIN = "the step was compiled without that; compile it again"
_TAKE = "the step does not see that; call refresh() to take it over (and sync() before such a change)"


class Watch:
    """The module and its optimizers as they were when the step last took or gave their state.

    `check` raises UsageError naming what is different since: modules or parameters replaced, `requires_grad` or training
    mode switched, settings and hooks of torch's modules, parameter groups, and values written in place into parameters,
    buffers or optimizer state. Writes through `.data` or NumPy leave no trace in torch and are not noticed.
    """

    def __init__(self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._modules = dict(model.named_modules())
        self._settings = {name: _settings(module) for name, module in self._modules.items()}
        self._tensors = dict(_tensors(model))
        self._trainable = {name: tensor.requires_grad for name, tensor in self._tensors.items()}
        self._members = [[*group["params"]] for _, group in self._groups()]
        self.renew()

    def renew(self) -> None:
        """Take the present values as known: the step has just taken them over, or written them."""
        self._versions = {name: tensor._version for name, tensor in self._tensors.items()}
        self._gathered = list(self._optimizer_state())

    def check(self) -> None:
        """Raise UsageError for the first thing that is not as it was."""
        self._check_modules()
        self._check_tensors()
        self._check_groups()

    def changed(self) -> set[str]:
        """Parameters and buffers that were written in place since."""
        return {name for name, tensor in self._tensors.items() if tensor._version != self._versions[name]}

    def optimizer_changed(self) -> bool:
        """Whether tensors of the optimizers' state were written, replaced or added since."""
        found = list(self._optimizer_state())
        return len(found) != len(self._gathered) or any(
            tensor is not known or version != then
            for (tensor, version), (known, then) in zip(found, self._gathered, strict=True)
        )

    def _check_modules(self) -> None:
        count = 0
        for name, module in self._model.named_modules():
            count += 1
            if self._modules.get(name) is not module:
                raise UsageError(f"module {_shown(name)} was replaced or added: {_AGAIN}")
            now, then = _settings(module), self._settings[name]
            if now != then:
                key = next(key for key in sorted({*now, *then}) if now.get(key) != then.get(key))
                raise UsageError(_setting_changed(_shown(name), key, then.get(key), now.get(key)))
        if count != len(self._modules):
            gone = next(n for n in self._modules if n not in dict(self._model.named_modules()))
            raise UsageError(f"module {_shown(gone)} was removed: {_AGAIN}")

    def _check_tensors(self) -> None:
        now = dict(_tensors(self._model))
        for name in [*now, *self._tensors]:
            if now.get(name) is not self._tensors.get(name):
                raise UsageError(f"parameter or buffer {name!r} was replaced, added or removed: {_AGAIN}")
        for name, tensor in now.items():
            if tensor.requires_grad != self._trainable[name]:
                raise UsageError(f"requires_grad of {name!r} is {tensor.requires_grad} now: {_AGAIN}")
        for name in self.changed():
            raise UsageError(f"{name!r} was written in place outside of the step: {_TAKE}")

    def _groups(self) -> list[tuple[torch.optim.Optimizer, dict[str, Any]]]:
        return [(optimizer, group) for optimizer in self._optimizers for group in optimizer.param_groups]

    def _check_groups(self) -> None:
        groups = self._groups()
        if len(groups) != len(self._members):
            raise UsageError(
                "the optimizer has other parameter groups than when the step was compiled; compile it again"
            )
        for at, ((optimizer, group), members) in enumerate(zip(groups, self._members, strict=True)):
            if len(group["params"]) != len(members) or any(
                a is not b for a, b in zip(group["params"], members, strict=True)
            ):
                raise UsageError(f"parameter group {at} of {type(optimizer).__name__} holds other parameters: {_AGAIN}")
        if self.optimizer_changed():
            raise UsageError(f"the optimizer's state was loaded or changed outside of the step: {_TAKE}")

    def _optimizer_state(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Tensors of the optimizers' state, kept so that none takes another's place in memory, and their versions."""
        for optimizer, group in self._groups():
            for parameter in group["params"]:
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, torch.Tensor):
                        yield value, value._version


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    """Training mode and number of hooks; of torch's own modules also their plain settings, such as a dropout's share."""
    own = type(module).__module__.startswith("torch.nn.")
    plain = {k: v for k, v in vars(module).items() if own and type(v) in (int, float, bool, str)}
    hooks = {name: len(getattr(module, name) or ()) for name in _HOOKS}
    return {**plain, **hooks, "training": module.training}


def _setting_changed(module: str, key: str, then: object, now: object) -> str:
    if key == "training":
        modes = {True: "train", False: "eval"}
        return (
            f"module {module} is in {modes[bool(now)]} mode, but the step was compiled with it in {modes[bool(then)]} "
            f"mode: call .{modes[bool(then)]}() on it, step.evaluate(...) to evaluate, or compile the step again"
        )
    if key in _HOOKS:
        return f"module {module} has {now} {key.strip('_').replace('_', ' ')} instead of {then}: {_AGAIN}"
    return f"{key} of module {module} is {now!r} instead of {then!r}: {_AGAIN}"


def _shown(name: str) -> str:
    return repr(name) if name else "itself (the root)"
