"""Trained state back into a PyTorch module and its optimizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from planc.errors import FeedError
from planc.runtime.state import read_state
from planc.torch.settings import SLOTS
from planc.training.optimizers import STEP


def load_into(
    module: torch.nn.Module, state: Mapping[str, np.ndarray[Any, Any]] | str | Path,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:  # fmt: skip
    """Copy trained parameters and buffers into `module`, in place, and optimizer state into `optimizer`.

    `state` is what `TrainingStep.state()` returns or the safetensors file that `save_state` wrote. Tensors of the
    module that the state does not hold keep their values: they were not trained. Raises FeedError for a state tensor
    that the module lacks or has in another shape; nothing is copied then.
    """
    values = read_state(Path(state)) if isinstance(state, (str, Path)) else state
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    slots = {f"{name}.{suffix}": (name, key) for name in tensors for key, suffix in SLOTS.items()}
    gathered = {slots[name]: value for name, value in values.items() if name in slots and name not in tensors}
    own = {n: v for n, v in values.items() if n in tensors or (n not in slots and n != STEP)}
    for name, value in own.items():
        if name not in tensors:
            raise FeedError(f"state {name!r} is no parameter or buffer of {type(module).__name__}")
        if tuple(tensors[name].shape) != value.shape:
            raise FeedError(f"state {name!r} has shape {list(value.shape)}, the module's {list(tensors[name].shape)}")
    with torch.no_grad():
        for name, value in own.items():
            tensors[name].copy_(torch.from_numpy(np.array(value)))
    if optimizer is not None:
        _load_optimizer(optimizer, tensors, gathered, values)


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor],
    gathered: Mapping[tuple[str, str], np.ndarray[Any, Any]], values: Mapping[str, np.ndarray[Any, Any]],
) -> None:  # fmt: skip
    """Set momentum buffers or moments, and the step count where the optimizer has one."""
    for (name, key), value in gathered.items():
        held = optimizer.state[tensors[name]]
        held[key] = torch.from_numpy(np.array(value)).to(tensors[name].device)
        if STEP in values:
            held["step"] = torch.tensor(float(values[STEP]))
