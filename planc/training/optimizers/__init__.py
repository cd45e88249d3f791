"""Optimizers: what updates a parameter, its state and its hyper-parameters, as ONNX nodes."""

from planc.training.optimizers import adaptive, descent, matrix  # noqa: F401 - registers the rules
from planc.training.optimizers.optimizer import KINDS, STEP, Kind, Optimizer
from planc.training.optimizers.rule import RULES, StateSlot, hyperparameters, slots, uses_step_count

__all__ = [
    "KINDS",
    "RULES",
    "STEP",
    "Kind",
    "Optimizer",
    "StateSlot",
    "hyperparameters",
    "slots",
    "uses_step_count",
]
