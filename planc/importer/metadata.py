"""What a model's metadata says of its inputs, read and checked against the graph: states, hyper-parameters, micro-batches,
ranges of labels; and of other ranks' steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from planc.errors import ModelError
from planc.graph import annotations
from planc.graph.graph import Shards
from planc.graph.inference import Type

InputLists = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Metadata:
    """`states` maps state inputs to the outputs that replace them; the others are as in `ImportedModel` and `Graph`."""

    states: Mapping[str, str]
    input_ranges: Mapping[str, tuple[int, int]]
    ignored: Mapping[str, int]
    hyperparameters: InputLists
    micro_batches: InputLists
    shards: Shards | None
    loss: str | None

    @property
    def settings(self) -> frozenset[str]:
        """Inputs that are hyper-parameters."""
        return frozenset(name for names in self.hyperparameters.values() for name in names if name)

    @property
    def given(self) -> frozenset[str]:
        """Inputs that have a value before the first step, which may change: no constants."""
        return self.settings.union(self.states)


def read_metadata(proto: onnx.ModelProto, title: str) -> Metadata:
    """The metadata. Raises ModelError where it is no JSON of the expected form or does not fit the inputs and outputs."""
    try:
        found = Metadata(
            states={str(k): str(v) for k, v in annotations.read_json(proto, annotations.STATE).items()},
            input_ranges={k: _range(v) for k, v in annotations.read_json(proto, annotations.INPUT_RANGES).items()},
            ignored={k: _whole(v) for k, v in annotations.read_json(proto, annotations.IGNORED).items()},
            hyperparameters=_input_lists(proto, annotations.HYPERPARAMETERS),
            micro_batches=_input_lists(proto, annotations.MICRO_BATCHES),
            shards=_shards(annotations.read_json(proto, annotations.SHARDS)),
            loss=next((prop.value for prop in proto.metadata_props if prop.key == annotations.LOSS), None),
        )
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{title}: the metadata {error}") from error
    _check_states(proto, found.states, title)
    _check_hyperparameters(proto, found, title)
    if found.loss is not None and found.loss not in {value.name for value in proto.graph.output}:
        raise ModelError(f"{title}: the metadata names the loss {found.loss!r}, which is no output of the model")
    return found


def check_micro_batches(found: Metadata, types: Mapping[str, Type], title: str) -> None:
    """Raise ModelError unless the inputs of each batch, of these `types`, are as good as its first."""
    names = [name for listed in found.micro_batches.values() for name in listed]
    for batch, listed in found.micro_batches.items():
        alike = listed[:1] == (batch,) and all(types.get(name) == types.get(batch) for name in listed)
        if not alike or any(names.count(name) > 1 or name in found.given for name in listed):
            raise ModelError(
                f"{title}: the metadata {annotations.MICRO_BATCHES!r} holds {batch!r}: {list(listed)}, expected batch "
                "inputs of one type, the first of that name, each once"
            )


def _range(value: object) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ValueError(f"{annotations.INPUT_RANGES!r} holds {value!r}, expected [low, high]")


def _whole(value: object) -> int:
    if isinstance(value, int):
        return value
    raise ValueError(f"{annotations.IGNORED!r} holds {value!r}, expected a whole number")


def _shards(found: Mapping[str, object]) -> Shards | None:
    """What one rank's step says of the others. Raises ValueError for another form."""
    if not found:
        return None
    rank, step, owners = (found.get(name) for name in ("rank", "step", "owners"))
    if not (isinstance(rank, int) and isinstance(step, str) and isinstance(owners, dict)):
        raise ValueError(f"{annotations.SHARDS!r} holds {found!r}, expected rank, step and owners")
    if not all(isinstance(owner, int) for owner in owners.values()):
        raise ValueError(f"{annotations.SHARDS!r} has an owner that is no rank")
    return Shards(rank, step, owners)


def _input_lists(proto: onnx.ModelProto, key: str) -> dict[str, tuple[str, ...]]:
    """Metadata that maps a name to names of inputs, "" for none. Raises ValueError for another form or an unknown input."""
    inputs = {value.name for value in proto.graph.input} | {""}
    found = annotations.read_json(proto, key)
    for name, names in found.items():
        if not isinstance(names, list) or not all(isinstance(n, str) and n in inputs for n in names):
            raise ValueError(f"{key!r} holds {name!r}: {names!r}, expected a list of inputs")
    return {name: tuple(names) for name, names in found.items() if isinstance(names, list)}


def _check_states(proto: onnx.ModelProto, states: Mapping[str, str], title: str) -> None:
    inputs = {value.name for value in proto.graph.input}
    outputs = {value.name for value in proto.graph.output}
    for name, replaced_by in states.items():
        if name not in inputs or replaced_by not in outputs:
            raise ModelError(
                f"{title}: the metadata pairs state {name!r} with {replaced_by!r}, but they are not an input and an output"
            )


def _check_hyperparameters(proto: onnx.ModelProto, found: Metadata, title: str) -> None:
    counts = {tensor.name: prod(tensor.dims) for tensor in proto.graph.initializer}
    for name, inputs in found.hyperparameters.items():
        for given in filter(None, inputs):
            if counts.get(given) != 1 or given in found.states:
                raise ModelError(
                    f"{title}: the metadata says that hyper-parameter {name!r} is the input {given!r}, expected one with a "
                    "number as its initial value that is no state"
                )
