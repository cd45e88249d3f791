"""What a training step does besides loss, gradients and updates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planc.errors import UsageError
from planc.training.optimizers import Optimizer


@dataclass(frozen=True)
class DynamicScale:
    """A loss scale that looks after itself, as torch.amp.GradScaler's does.

    A step whose gradients are not all finite changes nothing and multiplies the scale by `backoff`; `interval` finite
    ones in a row multiply it by `growth`.
    """

    initial: float = 65536.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000


BUCKET_BYTES = 25 << 20
"""Gradients exchanged together: large enough for a link's bandwidth, small enough to begin early."""


@dataclass(frozen=True)
class StepOptions:
    """Options of one training step.

    `clip_value` bounds each element of a gradient, `clip_norm` the norm of all gradients together (`norm_order` 2 or
    infinity), in that order. `accumulate` micro-batches are run one after the other and their mean gradient is used.
    `loss_scale` multiplies the loss before differentiation and is taken out of the gradients. `ema_decay` keeps an
    exponential moving average of every parameter. `seed` is that of random operators.

    With `ranks`, the step is one of so many that run at once, each on a batch of its own: gradients are summed over them,
    in buckets of about `bucket_bytes`, as over micro-batches. A `sharded` step is that of one `rank`, which keeps the
    optimizer's state of some of the parameters and updates those (`planc.training.shards`). Raises UsageError for values
    out of range.
    """

    clip_norm: float | None = None
    norm_order: float = 2.0
    clip_value: float | None = None
    accumulate: int = 1
    loss_scale: float | DynamicScale = 1.0
    ema_decay: float | None = None
    seed: int = 0
    ranks: int = 1
    bucket_bytes: int = BUCKET_BYTES
    sharded: bool = False
    rank: int = 0

    def __post_init__(self) -> None:
        if any(bound is not None and not bound > 0 for bound in (self.clip_norm, self.clip_value)):
            raise UsageError("a bound on gradients must be positive")
        if self.norm_order not in (2.0, math.inf):
            raise UsageError(f"gradients are clipped by their norm of order 2 or infinity, not {self.norm_order}")
        if self.accumulate < 1:
            raise UsageError(f"the number of micro-batches must be at least 1, not {self.accumulate}")
        if self.ranks < 1 or self.bucket_bytes < 1:
            raise UsageError(
                f"ranks and bytes of a bucket must be at least 1, not {self.ranks} and {self.bucket_bytes}"
            )
        if self.sharded and self.ranks == 1:
            raise UsageError("optimizer state is divided among several ranks: give their number too, or leave it whole")
        if not 0 <= self.rank < self.ranks:
            raise UsageError(f"the rank is {self.rank}, expected one of 0 to {self.ranks - 1}")
        if not isinstance(self.loss_scale, DynamicScale) and not self.loss_scale > 0:
            raise UsageError(f"the loss scale must be positive, not {self.loss_scale}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UsageError(f"the decay of averaged weights must lie in [0, 1), not {self.ema_decay}")

    @property
    def batches(self) -> int:
        """Micro-batches over which a step takes the mean, those of all ranks."""
        return self.accumulate * self.ranks

    @property
    def unscaled(self) -> bool:
        """Whether the gradient of the loss is 1."""
        return self.batches == 1 and self.loss_scale == 1.0

    @property
    def waits(self) -> bool:
        """Whether no parameter can be updated before all gradients are known."""
        return self.clip_norm is not None or isinstance(self.loss_scale, DynamicScale)


PLAIN = StepOptions()
"""One batch a step, its gradients as they are."""


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters by name that one rule with one set of hyper-parameters updates."""

    rule: Optimizer
    members: Sequence[str]
