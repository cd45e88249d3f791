"""Trained state back into a PyTorch module and its optimizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from planc.errors import FeedError
from planc.runtime.state import read_state
from planc.torch.settings import listed, slots_of
from planc.torch.tensors import from_numpy
from planc.training.optimizers import STEP
from planc.training.updates import AVERAGE, STEP_STATES

Arrays = Mapping[str, np.ndarray[Any, Any]]


def load_into(
    module: torch.nn.Module, state: Arrays | str | Path,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None, steps: int = 0,
) -> None:  # fmt: skip
    """Copy trained parameters and buffers into `module`, in place, and optimizer state into `optimizer`.

    `state` is what `TrainingStep.state()` returns or the safetensors file that `save_state` wrote. Tensors of the
    module that the state does not hold keep their values: they were not trained. What belongs to the step alone, such as
    averaged weights and random generators, is left out. `steps` is how many were done since optimizer state was last
    brought back: some of torch's optimizers count them without using the count. Raises FeedError for a state tensor
    that the module lacks or has in another shape; nothing is copied then.
    """
    values = read_state(Path(state)) if isinstance(state, (str, Path)) else state
    tensors = tensors_of(module)
    own = {name: value for name, value in values.items() if name in tensors or not _of_step(name, tensors)}
    for name, value in own.items():
        if name not in tensors:
            raise FeedError(f"state {name!r} is no parameter or buffer of {type(module).__name__}")
        if tuple(tensors[name].shape) != value.shape:
            raise FeedError(f"state {name!r} has shape {list(value.shape)}, the module's {list(tensors[name].shape)}")
    with torch.no_grad():
        for name, value in own.items():
            tensors[name].copy_(from_numpy(value))
    for one in listed(optimizer) if optimizer is not None else ():
        _load_optimizer(one, tensors, values, steps)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones under each of theirs."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def averaged(state: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """The exponential moving averages of the parameters, by the parameters' names; empty for a step that keeps none."""
    return {name.removesuffix(AVERAGE): value for name, value in state.items() if name.endswith(AVERAGE)}


def _of_step(name: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state is one of the step's own, or one that an optimizer keeps for a parameter."""
    return name in STEP_STATES or name.rpartition(".")[0] in tensors


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], values: Arrays, steps: int
) -> None:
    """Set the state of every parameter, and its step count where the optimizer has one."""
    slots, names = slots_of(optimizer), {id(tensor): name for name, tensor in reversed(list(tensors.items()))}
    counts = not isinstance(optimizer, (torch.optim.SGD, torch.optim.Muon))
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        name = names.get(id(parameter), "")
        found = {key: values[f"{name}.{suffix}"] for key, suffix in slots.items() if f"{name}.{suffix}" in values}
        held = optimizer.state[parameter] if found else {}
        held.update({key: from_numpy(value).to(parameter.device) for key, value in found.items()})
        if found and counts and STEP in values:
            held["step"] = torch.tensor(float(values[STEP]))
        elif found and (isinstance(optimizer, torch.optim.RMSprop) or "step" in held):
            held["step"] = torch.as_tensor(held.get("step", 0.0)) + float(steps)
