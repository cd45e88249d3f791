"""What a user says of an optimizer: its kind and its settings, with the names and defaults of torch.optim."""

from dataclasses import dataclass
from typing import Literal, get_args

from planc.errors import UsageError

Kind = Literal["sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad", "lion", "adafactor", "muon"]

KINDS: tuple[Kind, ...] = get_args(Kind)

STEP = "optimizer.step"
"""Name of the step count that some rules need: a float32 scalar, 0 before the first step."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Muon's iteration (Jordan et al., 2024)."""


@dataclass(frozen=True)
class Optimizer:
    """An update rule and its settings; each kind reads its own and ignores the rest.

    `weight_decay` is added to the gradient (L2), except that `adamw`, `lion`, `adafactor` and `muon` shrink the
    parameter (Loshchilov and Hutter, 2019). `momentum` 0 in `rmsprop` keeps no velocity. `alpha` smooths RMSprop's
    squares, `rate_decay` is Adagrad's, `beta2_decay`, `clip_threshold` and `scale_epsilon` Adafactor's. `epsilon` None
    is the kind's usual one. Adam without `bias_correction` takes its moments as they are; with `decay_last` AdamW
    shrinks the parameter after the step and corrects the step size alone, as the `transformers` package does. Raises
    UsageError for values outside their range.
    """

    kind: Kind = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float | None = None
    weight_decay: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    maximize: bool = False
    amsgrad: bool = False
    bias_correction: bool = True
    decay_last: bool = False
    centered: bool = False
    alpha: float = 0.99
    rate_decay: float = 0.0
    initial_accumulator: float = 0.0
    beta2_decay: float = -0.8
    scale_epsilon: float = 1e-3
    clip_threshold: float = 1.0
    newton_schulz: tuple[float, float, float] = NEWTON_SCHULZ
    newton_schulz_steps: int = 5
    rate_for_shape: Literal["original", "match_rms_adamw"] = "original"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown optimizer {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.learning_rate < 0 or self.weight_decay < 0 or (self.epsilon or 0) < 0 or self.rate_decay < 0:
            raise UsageError("learning rate, weight decay and epsilon of an optimizer must not be negative")
        if not all(0 <= v < 1 for v in (self.momentum, self.alpha, *self.betas)):
            raise UsageError("momentum and betas of an optimizer must lie in [0, 1)")
        if self.nesterov and (not self.momentum or self.dampening):
            raise UsageError("Nesterov momentum needs a momentum above 0 and no dampening")

    @property
    def eps(self) -> float:
        """The term that keeps divisors from 0."""
        usual = {"adagrad": 1e-10, "muon": 1e-7}
        return usual.get(self.kind, 1e-8) if self.epsilon is None else self.epsilon
