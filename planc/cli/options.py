"""Options that several commands share."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from planc.cli.known_models import known_model
from planc.errors import PlanError, UsageError
from planc.files import below
from planc.units import LONGEST_TIME_LIMIT

if TYPE_CHECKING:
    from planc.training.optimizers import Optimizer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Model = Annotated[
    Path | None, typer.Option("--model", help="The model; by default the file the plan names, beside it.")
]
HostTier = Annotated[
    str | None,
    typer.Option("--host-tier", help="Where swapped bytes go on the CPU: file (the default), file:PATH, or ram."),
]
TimeLimit = Annotated[
    float, typer.Option("--time-limit", help="Seconds the solver may take.", min=0.1, max=LONGEST_TIME_LIMIT)
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the solver's search.")]
Gap = Annotated[
    str | None,
    typer.Option("--gap", help="The gap to the bound at which to stop, 0.1% or 0; else when little is left."),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Count work instead of seconds: one result, byte for byte.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:INDEX, a catalogue card, or auto.")]
Fuse = Annotated[bool, typer.Option(help="Join element-wise operators into kernels of planc's own (CUDA).")]
WorldSize = Annotated[
    int, typer.Option("--world-size", help="Ranks that run the step at once, each on a batch of its own.", min=1)
]
Shard = Annotated[
    bool, typer.Option("--shard", help="Divide the optimizer's state among the ranks: a graph each, step.{rank}.onnx.")
]
Forms = Annotated[str, typer.Option("--device", help="Operator forms: auto, cpu (standard operators), onednn or cuda.")]
ClipNorm = Annotated[
    float | None, typer.Option("--clip-norm", help="Largest norm of all gradients together; larger ones are scaled.")
]
ClipValue = Annotated[
    float | None, typer.Option("--clip-value", help="Largest absolute value of a gradient's element.")
]
Accumulate = Annotated[
    int, typer.Option("--accumulate", help="Micro-batches of one step, each of the model's batch; gradients averaged.")
]
Ema = Annotated[
    float | None, typer.Option("--ema", help="Decay of a moving average of every parameter, kept beside it: 0.999.")
]
Costs = Annotated[Path | None, typer.Option("--costs", help="A cost table made by `planc profile`.")]


_DIMENSION = re.compile(r"[1-9][0-9]{0,17}")


def optimizer_of(kind: str, learning_rate: float | None) -> "Optimizer":
    """The optimizer with its usual settings. Raises UsageError for an unknown kind."""
    from planc.training.optimizers import Kind, Optimizer  # few commands differentiate

    for known in get_args(Kind):
        if kind == known:
            return Optimizer(known) if learning_rate is None else Optimizer(known, learning_rate=learning_rate)
    raise UsageError(f"unknown optimizer {kind!r}: choose one of {', '.join(get_args(Kind))}")


def gap_of(text: str | None) -> float | None:
    """`0.1%` or `0.001` as a fraction; None stays None. Raises UsageError for anything else."""
    if text is None:
        return None
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1:
        raise UsageError(f"--gap {text!r}: expected a part of the step's time, for example 0.1% or 0.001 or 0")
    return found


def dimensions(bindings: Iterable[str]) -> dict[str, int]:
    """`batch=16` → {"batch": 16}. Raises UsageError naming the binding that is not of this form."""
    found = {}
    for binding in bindings:
        name, _, size = binding.partition("=")
        if not name or not _DIMENSION.fullmatch(size):
            raise UsageError(f"--dim {binding[:60]!r}: expected name=size, for example batch=16")
        found[name] = int(size)
    return found


def beside(plan: Path, file: str, content_hash: str, given: Path | None) -> Path:
    """The model of a plan: the one given, the file that the plan names, below the plan's folder, or the one from which
    planc wrote the plan to another folder.

    Raises UsageError when the plan names none, PlanError when it names one elsewhere or none that is there."""
    if given is not None:
        return given
    if not file:
        raise UsageError(f"{plan} does not say which file its model is: give it with --model")
    try:
        found = below(plan.parent, file)
    except OSError as error:
        raise PlanError(f"{plan}: its model: {error.strerror}; give the model with --model") from error
    if found.exists():
        return found
    known = known_model(content_hash)
    if known is None:
        raise PlanError(f"{plan}: its model: there is no {found}; give the model with --model")
    return known


def forms_for(device: str) -> str:
    """The operator forms that suit a --device on this machine: those for CUDA on every card."""
    from planc.profiling.target import target_of  # few commands know devices, which take a while to import

    return target_of(device).forms
