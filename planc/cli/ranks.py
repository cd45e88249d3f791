"""Files that every rank of a step has its own of: `{rank}` in a name stands for the rank."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from planc.errors import UsageError

if TYPE_CHECKING:
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
