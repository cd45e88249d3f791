"""The scalars of a step: hyper-parameters as inputs of the graph, the step count, and what follows from both.

They are float64 and computed once for a parameter group, as torch.optim computes them in Python; the updates read them in
the parameter's type.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from onnx import TensorProto, numpy_helper

from planc.training.emit.builder import Builder, LayerGroup, Var
from planc.training.optimizers import RULES, STEP, hyperparameters, uses_step_count
from planc.training.optimizers.rule import Scalars
from planc.training.step_options import ParameterGroup
from planc.training.weave import Section, Weave

PREFIX = "optimizer."
"""Of the names of hyper-parameters in the graph: `optimizer.lr`, with several groups `optimizer.lr.0` and so on."""


class Schedule:
    """Scalars of all parameter groups, emitted into one section when somebody asks for them.

    `inputs` lists the hyper-parameters' input names by their own name, one per group ("" for a group without it);
    `initial` holds their values at first.
    """

    def __init__(self, weave: Weave, groups: Sequence[ParameterGroup], section: Section) -> None:
        self.weave, self.groups, self.section = weave, groups, section
        self.inputs: dict[str, list[str]] = {}
        self.initial: dict[str, TensorProto] = {}
        self.following_step: Var | None = None
        self._scalars: dict[int, Scalars] = {}
        self._made: dict[str, Var] = {}
        self._typed: dict[tuple[str, int, int], Var] = {}

    def scalar(self, group: int, name: str, like: Var) -> Var:
        """Scalar `name` of a parameter group, in the type and rank of `like`."""
        return self.typed(self._of_group(group)[name], like)

    def packed(self, group: int, names: Sequence[str], like: Var) -> Var:
        """Scalars of a parameter group one after the other, in the type of `like`; 1 for one that the group has not."""
        found = self._of_group(group)
        row = Var("", (1,), like.dtype)
        parts = [self.typed(found[name], row) if name in found else self._one(row) for name in names]
        return self.once(f"{group} {like.dtype} {' '.join(names)}", lambda b: b.concat(parts, 0))

    def _one(self, row: Var) -> Var:
        return self.weave.b.full(row.shape, 1.0, row.dtype)

    def typed(self, scalar: Var, like: Var, section: Section | None = None) -> Var:
        """A scalar in the type and rank of `like`; each form is made once, in `section` where the scalar is made later."""
        key = (scalar.name, like.dtype, like.rank)
        if key not in self._typed:
            flat = (scalar.name, like.dtype, 0)
            with self._emitting(section) as b:
                if flat not in self._typed:
                    self._typed[flat] = b.cast(scalar, like.dtype)
                self._typed[key] = b.reshape(self._typed[flat], (1,) * like.rank)
        return self._typed[key]

    def input(self, name: str, value: float, group: int | None = None) -> Var:
        """Declare a hyper-parameter, of one parameter group or (None) of the whole step."""
        b = self.weave.b
        shared = group is None or len(self.groups) == 1
        title = f"{PREFIX}{name}" if shared else f"{PREFIX}{name}.{group}"
        listed = self.inputs.setdefault(name, [""] * (1 if group is None else len(self.groups)))
        listed[group or 0] = title
        self.initial[title] = numpy_helper.from_array(np.array(value, np.float64), title)
        b.values[title] = declared = Var(title, (), TensorProto.DOUBLE)
        return declared

    def shared(self, name: str, value: float) -> Var:
        """A hyper-parameter of the whole step, float64, declared when it is first asked for."""
        title = f"{PREFIX}{name}"
        return self.weave.b.values[title] if title in self.initial else self.input(name, value)

    def once(self, name: str, make: Callable[[Builder], Var]) -> Var:
        """The scalar `name`, which `make` emits when it is first asked for."""
        if name not in self._made:
            with self._emitting() as b:
                self._made[name] = make(b)
        return self._made[name]

    def count(self) -> None:
        """Emit the next step count if a rule counts."""
        if self.following_step is None and any(uses_step_count(group.rule) for group in self.groups):
            held = Var(STEP, (), TensorProto.FLOAT)
            with self._emitting() as b:
                b.values[STEP] = held
                self.following_step = b.add(held, 1.0)

    def declare(self, groups: Iterable[int]) -> None:
        """Declare the hyper-parameters of parameter groups, whether or not an update of this rank reads them."""
        for group in groups:
            self._of_group(group)

    def _of_group(self, group: int) -> Scalars:
        if group not in self._scalars:
            rule = self.groups[group].rule
            given = {name: self.input(name, value, group) for name, value in hyperparameters(rule).items()}
            self.count()
            with self._emitting() as b:
                step = b.cast(self.following_step, TensorProto.DOUBLE) if self.following_step else None
                self._scalars[group] = RULES[rule.kind].scalars(b, rule, given, step)
        return self._scalars[group]

    def _emitting(self, section: Section | None = None) -> AbstractContextManager[Builder]:
        return self.weave.filling(
            self.section if section is None else section, LayerGroup("optimizer", "schedule", "update")
        )
