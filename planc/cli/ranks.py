"""Files that every rank of a step has its own of: `{rank}` in a name stands for the rank."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from planc.errors import ModelError, UsageError

if TYPE_CHECKING:
    from planc.graph.graph import Shards
    from planc.importer.load import ModelFile
    from planc.training.step_options import StepOptions

MARK = "{rank}"


def each_rank(output: Path, step: "StepOptions") -> Iterator[tuple[Path, "StepOptions"]]:
    """The graph's file and options of every rank; of a step that is the same on all, one.

    Raises UsageError for a name in which a rank should be and is not, or the other way round.
    """
    if step.sharded != (MARK in output.name):
        if step.sharded:
            raise UsageError(
                f"-o {output}: --shard makes a graph for every rank: call it step.{MARK}.onnx, for example"
            )
        raise UsageError(f"-o {output}: {MARK} is for --shard, which makes a graph for every rank")
    for rank in range(step.ranks if step.sharded else 1):
        yield of_rank(output, rank), replace(step, rank=rank)


def require_alike(model: Path, beside: Mapping[str, Path | None]) -> None:
    """Raise UsageError where the model is one file for each rank and a file beside it, given by its option, is one for all,
    or the other way round."""
    for option, path in beside.items():
        if path is None or (MARK in path.name) == (MARK in model.name):
            continue
        if MARK in model.name:
            raise UsageError(
                f"{option} {path}: {model} is a graph for every rank, which needs its own: put {MARK} in the name"
            )
        raise UsageError(f"{option} {path}: {MARK} is for a model with {MARK} in its name, a graph for every rank")


def every_rank(model: Path) -> list["ModelFile"]:
    """The graphs of all ranks, in order, whose number the first of them says.

    Raises ModelError naming the file that cannot be read or is not the graph of its rank in the step of the first.
    """
    from planc.importer.load import read_model

    first = read_model(of_rank(model, 0))
    ranks, step = _place_of(first, 0)
    found = [first]
    for rank in range(1, ranks):
        path = of_rank(model, rank)
        if not path.exists():
            raise ModelError(f"{first.path} is of {ranks} ranks, and there is no {path}: build all of them again")
        file = read_model(path)
        others, own = _place_of(file, rank)
        if others != ranks:
            raise ModelError(f"{path} is of {others} ranks, {first.path} of {ranks}: build all of them again")
        if own.step != step.step:
            raise ModelError(
                f"{path} is of another step than {first.path}: build all of them again, with the same options"
            )
        found.append(file)
    return found


def _place_of(file: "ModelFile", rank: int) -> tuple[int, "Shards"]:
    """The number of ranks and the place of the graph among them. Raises ModelError where that is not `rank`'s."""
    from planc.importer.exchanges import rank_count
    from planc.importer.metadata import read_metadata

    found = read_metadata(file.proto, file.title).shards
    if found is None:
        raise ModelError(
            f"{file.title} is not the graph of one rank: only --shard makes a graph for every rank; give a model that is "
            f"the same on all ranks without {MARK} in its name"
        )
    if found.rank != rank:
        raise ModelError(f"{file.title} is the graph of rank {found.rank}, not of {rank}: build all of them again")
    return rank_count(file.proto.graph.node, file.title), found


def of_rank(path: Path, rank: int) -> Path:
    """The file of that rank."""
    return path.with_name(path.name.replace(MARK, str(rank))) if MARK in path.name else path


def of_this_rank(path: Path) -> Path:
    """The file of the rank that this process is. Raises UsageError for a process that was not started as one."""
    if MARK not in path.name:
        return path
    from planc.runtime.ranks.group import place  # few commands meet other ranks

    found = place()
    if found is None:
        raise UsageError(f"{path} is a file for each rank, this process is alone: start it with torchrun")
    return of_rank(path, found.rank)


def run_by_ranks(plan: Path, ranks: int) -> str:
    """The command that runs the plan, or that of each rank, in so many processes."""
    return f"torchrun --nproc-per-node {ranks} --no-python planc run {plan} --ranks"
