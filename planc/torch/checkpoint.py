"""Everything that training goes on from, in one safetensors file: state, generators, and what else has a state."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from planc.errors import FeedError, UsageError
from planc.runtime.state import Generators, read_checkpoint, write_state
from planc.runtime.step import TrainingStep

_TORCH, _NUMPY, _NOTES = "rng/torch", "rng/numpy", "notes"
"""Names of the generators' positions, and of all that is text, as bytes."""

_STATE = "state/"


Arrays = dict[str, np.ndarray[Any, Any]]


def beside_state(
    steps: int, hyperparameters: Mapping[str, tuple[float | None, ...]], objects: Mapping[str, Any]
) -> Arrays:
    """What a checkpoint holds beside the step's state and its generators: the number of steps done, hyper-parameters, the
    generators of torch, NumPy and Python, and the states of `objects`, all as they are now.

    Raises UsageError for an object whose state is not plain numbers, texts, lists and dicts.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    notes = {
        "steps": steps,
        "hyperparameters": hyperparameters,
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
        "objects": {name: _state_of(name, thing) for name, thing in objects.items()},
    }
    return {
        _TORCH: torch.get_rng_state().numpy(),
        _NUMPY: np.asarray(keys, np.uint32),
        _NOTES: np.frombuffer(json.dumps(notes).encode(), np.uint8),
    }


def write_training(
    path: Path, state: Mapping[str, np.ndarray[Any, Any]], generators: Generators | None, beside: Arrays
) -> None:
    """Write the step's `state` with its `generators` and what is `beside` them, which must be of one moment."""
    write_state({f"{_STATE}{name}": value for name, value in state.items()} | beside, path, generators)


def _state_of(name: str, thing: Any) -> Any:
    state = thing.state_dict() if hasattr(thing, "state_dict") else thing
    try:
        plain = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise UsageError(f"the state of {name!r} is no plain data ({error}); save it beside the step") from error
    return plain


def read_training(path: Path, step: TrainingStep, objects: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Put everything back; returns the steps done and the plain values that were saved.

    Raises FeedError where the file is no checkpoint of this step, or lacks an object's state; nothing is changed then.
    """
    arrays, generators = read_checkpoint(path)
    if not {_TORCH, _NUMPY, _NOTES} <= set(arrays):
        raise FeedError(f"{path}: not a file that CompiledStep.save wrote")
    notes = json.loads(arrays[_NOTES].tobytes())
    missing = [name for name in objects if name not in notes["objects"]]
    if missing:
        raise FeedError(f"{path}: it holds no state of {missing[0]!r}, only of {', '.join(notes['objects']) or 'none'}")
    state = {n.removeprefix(_STATE): v for n, v in arrays.items() if n.startswith(_STATE)}
    step.go_on_from(state, generators)
    step.set_hyperparameters(**notes["hyperparameters"])
    for name, thing in objects.items():
        thing.load_state_dict(notes["objects"][name])
    kind, position, has_gauss, gauss = notes["numpy"]
    np.random.set_state((kind, arrays[_NUMPY], position, has_gauss, gauss))
    version, internal, gauss_next = notes["python"]
    random.setstate((version, tuple(internal), gauss_next))
    torch.set_rng_state(torch.from_numpy(np.array(arrays[_TORCH])))
    return int(notes["steps"]), {n: v for n, v in notes["objects"].items() if n not in objects}
