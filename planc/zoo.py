"""Network families that `planc zoo` can build, discovered through the entry-point group `planc.models`."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from math import prod
from typing import Protocol

import onnx

from planc.errors import UsageError
from planc.importer.import_model import import_model
from planc.importer.load import ModelFile
from planc.training import Optimizer, differentiate
from planc.training.optimizers import Kind
from planc.training.step_options import PLAIN, StepOptions

OPTIMIZER: Kind = "momentum"
"""That of a network's step where none is asked for."""


@dataclass(frozen=True)
class ZooOptions:
    """What a user may ask of a family; None means the network's own default."""

    batch: int | None = None
    image: int | None = None
    depth: int | None = None
    width: int | None = None
    seq: int | None = None
    classes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ForwardModel:
    """A forward graph ready to be differentiated.

    `model` has concrete shapes, parameters as float32 initializers, one output of logits, and node annotations
    (`planc.graph.annotations`). `parameters` names what is trained, `loss` the loss to put on it.
    """

    model: onnx.ModelProto
    parameters: tuple[str, ...]
    loss: str = "cross-entropy"


class ModelFamily(Protocol):
    """One network family; `names` maps each network name to a one-line description."""

    @property
    def names(self) -> Mapping[str, str]: ...

    def build(self, name: str, options: ZooOptions, values: bool = True) -> ForwardModel:
        """The forward model of network `name`; without `values`, random initial values have a shape and no data.

        Raises UsageError for an option the network cannot take.
        """
        ...


def families() -> dict[str, ModelFamily]:
    """Every network name known to the installed families."""
    found: dict[str, ModelFamily] = {}
    for entry in entry_points(group="planc.models"):
        family: ModelFamily = entry.load()
        found.update(dict.fromkeys(family.names, family))
    return found


def build_forward(name: str, options: ZooOptions, values: bool = True) -> ForwardModel:
    """The forward model of zoo network `name`, as ModelFamily.build. Raises UsageError when no family knows it."""
    known = families()
    if name not in known:
        raise UsageError(f"unknown network {name!r}: choose one of {', '.join(sorted(known))}")
    return known[name].build(name, options, values)


def build_step(
    name: str,
    options: ZooOptions,
    optimizer: Optimizer,
    device: str = "cpu",
    values: bool = True,
    step: StepOptions = PLAIN,
) -> onnx.ModelProto:
    """The training graph of zoo network `name`, with operator forms for `device`. Raises UsageError as `build_forward`."""
    return _step(build_forward(name, options, values), optimizer, device, step)


def _step(built: ForwardModel, optimizer: Optimizer, device: str = "cpu", step: StepOptions = PLAIN) -> onnx.ModelProto:
    return differentiate(
        built.model, loss=built.loss, optimizer=optimizer, device=device, parameters=built.parameters, options=step
    )


@dataclass(frozen=True)
class NetworkSummary:
    """A network at its default size: trained values, and operators and planner's layers of its step with `OPTIMIZER`.

    `inputs` are the shapes of a batch.
    """

    name: str
    description: str
    parameters: int
    operators: int
    layers: int
    inputs: Mapping[str, tuple[int, ...]]


def summarize(name: str, device: str = "cpu") -> NetworkSummary:
    """Counts from the training graph of zoo network `name` with operator forms for `device`, built without drawing its
    initial values."""
    built = build_forward(name, ZooOptions(), values=False)
    step = _step(built, Optimizer(OPTIMIZER), device)
    imported = import_model(ModelFile(step, None))
    graph, fixed = step.graph, {t.name for t in step.graph.initializer}
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in graph.input}
    return NetworkSummary(
        name=name,
        description=families()[name].names[name],
        parameters=sum(prod(shapes[parameter]) for parameter in built.parameters),
        operators=imported.operators,
        layers=len(imported.graph.layers),
        inputs={name: shape for name, shape in shapes.items() if name not in fixed},
    )
