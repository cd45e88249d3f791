"""From gradients to updates: taking the loss scale out, clipping, the optimizer's rule, averaged weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from onnx import TensorProto

from planc.training.emit.builder import HALVES, RANDOM_KEY, Builder, LayerGroup, Var
from planc.training.emit.forms import OperatorForms
from planc.training.micro_batches import Ready
from planc.training.optimizers import RULES, STEP, slots
from planc.training.optimizers.rule import Update
from planc.training.rules.reductions import squared_norm, total
from planc.training.schedule import Schedule
from planc.training.shards import Hold, Shards
from planc.training.step_options import DynamicScale, StepOptions
from planc.training.weave import Section, Weave

LOSS_SCALE = "loss_scale"
"""Name of the loss scale: a hyper-parameter `optimizer.loss_scale`, or the state of a scale that looks after itself."""

CLEAN_STEPS = "loss_scale.clean_steps"
"""Number of finite steps since the scale changed, float32."""

GRADIENT_NORM = "gradient_norm"
"""Output of a step that clips by norm: the norm of all gradients before, as torch.nn.utils.clip_grad_norm_ returns it."""

FINITE = "gradients_finite"
"""Output of a step with a dynamic loss scale: whether all gradients were finite, so that the step changed something."""

AVERAGE = ".ema"
"""Suffix of the name of a parameter's exponential moving average."""

STEP_STATES = frozenset({STEP, LOSS_SCALE, CLEAN_STEPS, RANDOM_KEY})
"""State of the whole step, which belongs to no parameter or buffer."""

CLIP_EPSILON = 1e-6
"""Added to the norm of all gradients before it divides (torch.nn.utils.clip_grad_norm_)."""


@dataclass
class Updates:
    """Emits what follows from gradients that are ready.

    An update stands right behind its gradient, or behind all of them where the options make it wait. `hold` takes next
    values of state.
    """

    weave: Weave
    schedule: Schedule
    options: StepOptions
    group_of: dict[str, int]
    table: OperatorForms
    hold: Hold
    scale: Var | None
    """What the loss was multiplied with: a scalar."""
    shards: Shards | None = None
    """Of a step that updates some of the parameters: the others."""
    outputs: dict[str, Var] = field(default_factory=dict)
    _last: Section = field(default_factory=list)
    _finite: Var | None = None
    _clip: Var | None = None
    _shares: dict[str, Var] = field(default_factory=dict)
    _oddities: dict[str, Var] = field(default_factory=dict)

    def emit(self, gradients: Sequence[Ready]) -> None:
        """Emit all updates."""
        sections = [(ready, self.weave.section(ready.position, ready.turn)) for ready in gradients]
        prepared = [replace(ready, gradient=self._prepared(ready, section)) for ready, section in sections]
        if not self.options.waits:
            for ready, (_, section) in zip(prepared, sections, strict=True):
                self._update(ready, section)
            return
        self._judge(prepared, sections)
        self._last = self.weave.last()
        self._common(self._last)
        for ready in prepared:
            self._update(ready, self.weave.last())

    # --- one gradient

    def _prepared(self, ready: Ready, section: Section) -> Var:
        """The gradient in the type that the parameter is updated in, without the loss scale, its elements bounded."""
        parameter = self.weave.b.values[ready.name]
        with self.weave.filling(section, replace(ready.group, phase="update")) as b:
            gradient = b.cast(ready.gradient, _wide(parameter).dtype)
            if self.scale is not None:
                gradient = b.mul(gradient, self.schedule.typed(self._inverse(self.scale), gradient))
            if self.options.clip_value is not None:
                gradient = self._bounded(b, gradient)
        return gradient

    def _inverse(self, scale: Var) -> Var:
        """1 / loss scale, a float64 scalar."""
        wide = TensorProto.DOUBLE
        return self.schedule.once("inverse", lambda b: b.unary("Reciprocal", b.cast(scale, wide)))

    def _bounded(self, b: Builder, gradient: Var) -> Var:
        bound = self.schedule.shared("clip_value", self.options.clip_value or 0.0)
        lower = self.schedule.once("lowest", lambda b: b.unary("Neg", bound))
        low, high = (self.schedule.typed(v, replace(gradient, shape=())) for v in (lower, bound))
        return b.op("Clip", [gradient, low, high], gradient.shape)

    def _update(self, ready: Ready, section: Section) -> None:
        """Emit the rule's step for one parameter, and the average that follows it.

        Half-precision parameters and state are updated in float32 and rounded once: in bfloat16 1 - lr decay is 1.
        """
        at = self.group_of[ready.name]
        rule, parameter = self.schedule.groups[at].rule, self.weave.b.values[ready.name]
        kept = slots(rule, parameter)
        state = {k: Var(s.name, s.initial.shape, parameter.dtype) for k, s in kept.items()}
        with self.weave.filling(section, replace(ready.group, phase="update")) as b:
            b.values.update({v.name: v for v in state.values()})
            gradient = ready.gradient
            if self._clip is not None:
                gradient = b.mul(gradient, self.schedule.typed(self._clip, gradient, self._last))
            scalar = partial(self.schedule.scalar, at, like=_wide(parameter))
            wide = {k: b.wide(v) for k, v in state.items()}
            packed = partial(self.schedule.packed, at, like=_wide(parameter)) if self.table.library else None
            update = Update(b, rule, b.wide(parameter), gradient, wide, scalar, packed)
            exact, moved = RULES[rule.kind].update(update)
            following = self._if_finite(b, b.cast(exact, parameter.dtype), parameter)
            self.hold(ready.name, following, None)
            for suffix, slot in kept.items():
                old = state[suffix]
                self.hold(slot.name, self._if_finite(b, b.cast(moved[suffix], old.dtype), old), slot.initial)
            if self.options.ema_decay is not None:
                self._average(b, parameter, exact)

    def _if_finite(self, b: Builder, following: Var, old: Var) -> Var:
        """The next value, or the old one in a step whose gradients are not all finite."""
        return following if self._finite is None else b.where(self._finite, following, old)

    def _average(self, b: Builder, parameter: Var, exact: Var) -> None:
        """a' = d a + (1 - d) w', from a = w at first (Polyak and Juditsky, 1992, exponentially weighted)."""
        decay = self.schedule.shared("ema_decay", self.options.ema_decay or 0.0)
        rest = self.schedule.once("ema_rest", lambda b: b.sub(1.0, decay))
        average = replace(parameter, name=f"{parameter.name}{AVERAGE}")
        b.values[average.name] = average
        old, new = (self.schedule.typed(scalar, exact) for scalar in (decay, rest))
        mean = b.add(b.mul(b.wide(average), old), b.mul(exact, new))
        self.hold(average.name, self._if_finite(b, b.cast(mean, average.dtype), average), None)

    # --- all gradients

    def _judge(self, prepared: Sequence[Ready], sections: Sequence[tuple[Ready, Section]]) -> None:
        """Reduce each gradient to one element where it is made: its share of the norm, and whether it is finite."""
        for ready, (_, section) in zip(prepared, sections, strict=True):
            group = LayerGroup(f"{ready.group.layer}.norm", "clip", "update")
            with self.weave.filling(section, group) as b:
                if self.options.clip_norm is not None:
                    self._shares[ready.name] = self._share(b, ready.gradient)
                if isinstance(self.options.loss_scale, DynamicScale):
                    # Times 0, what is finite vanishes and what is not turns into NaN.
                    vanishing = b.mul(b.wide(ready.gradient), 0.0)
                    self._oddities[ready.name] = self._element(b, total(b, self.table, vanishing))

    def _share(self, b: Builder, gradient: Var) -> Var:
        if self.options.norm_order == math.inf:
            return self._element(b, b.op("ReduceMax", [b.unary("Abs", b.wide(gradient))], (), keepdims=0))
        return self._element(b, squared_norm(b, self.table, gradient))

    def _element(self, b: Builder, number: Var) -> Var:
        """A vector of one, in one type for all gradients."""
        return b.reshape(b.cast(number, self._element_type), (1,))

    @property
    def _element_type(self) -> int:
        doubles = any(self.weave.b.values[name].dtype == TensorProto.DOUBLE for name in self.group_of)
        return TensorProto.DOUBLE if doubles else TensorProto.FLOAT

    def _all(self, section: Section, title: str, elements: Mapping[str, Var]) -> Var:
        """The vector of one element for each gradient, those of other ranks' parameters included."""
        if self.shards is not None:
            return self.shards.together(section, title, elements, self._element_type)
        with self.weave.filling(section, LayerGroup(GRADIENT_NORM, "clip", "update")) as b:
            return b.concat(list(elements.values()), 0)

    def _common(self, section: Section) -> None:
        """What all gradients say together: the factor that clips them, and whether the step counts."""
        clips, scales = self.options.clip_norm is not None, isinstance(self.options.loss_scale, DynamicScale)
        shares = self._all(section, "norms", self._shares) if clips else None
        oddities = self._all(section, "oddities", self._oddities) if scales else None
        with self.weave.filling(section, LayerGroup(GRADIENT_NORM, "clip", "update")) as b:
            if shares is not None:
                self._clip = self._factor(b, shares)
            if oddities is not None and isinstance(self.options.loss_scale, DynamicScale):
                self._finite = b.compare("Equal", total(b, self.table, oddities), 0.0)
                self.outputs[FINITE] = self._finite
                self._rescale(b, self.options.loss_scale)

    def _factor(self, b: Builder, parts: Var) -> Var:
        """min(1, bound / (norm + 1e-6)), and the norm as an output (Pascanu et al., 2013)."""
        if self.options.norm_order == math.inf:
            norm = b.op("ReduceMax", [parts], (), keepdims=0)
        else:
            norm = b.unary("Sqrt", total(b, self.table, parts))
        self.outputs[GRADIENT_NORM] = norm
        bound = self.schedule.typed(self.schedule.shared("clip_norm", self.options.clip_norm or 0.0), norm)
        share = b.div(bound, b.add(norm, CLIP_EPSILON))
        return b.op("Min", [share, b.scalar_for(1.0, share)], ())

    def _rescale(self, b: Builder, dynamic: DynamicScale) -> None:
        """The next loss scale and the number of finite steps since it changed (torch.amp.GradScaler.update)."""
        if self.scale is None or self._finite is None:
            return
        clean = Var(CLEAN_STEPS, (), TensorProto.FLOAT)
        b.values[CLEAN_STEPS] = clean
        longer = b.add(clean, 1.0)
        grows = b.compare("GreaterOrEqual", longer, float(dynamic.interval))
        grown = b.where(grows, b.mul(self.scale, dynamic.growth), self.scale)
        fine = b.where(self._finite, grown, b.mul(self.scale, dynamic.backoff))
        again = b.where(grows, 0.0, longer)
        self.hold(self.scale.name, fine, np.array(dynamic.initial, np.float32))
        self.hold(CLEAN_STEPS, b.where(self._finite, again, 0.0), np.array(0.0, np.float32))

    def counted(self, following: Var, held: Var) -> Var:
        """The next step count: unchanged by a step whose gradients are not all finite."""
        if self._finite is None:
            return following
        with self.weave.filling(self.weave.last(), LayerGroup(GRADIENT_NORM, "clip", "update")) as b:
            return b.where(self._finite, following, held)


def _wide(parameter: Var) -> Var:
    """The parameter as its update computes with it: in float32 at least."""
    return replace(parameter, dtype=TensorProto.FLOAT) if parameter.dtype in HALVES else parameter
