"""Where commands print: data on stdout, messages and progress on stderr, one JSON object with --json."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import onnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from planc.enums import Status
from planc.errors import InfeasibleBudgetError
from planc.graph.annotations import STATE, read_json


def out() -> Console:
    """The console for data."""
    return Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False)


def err() -> Console:
    """The console for messages and progress."""
    return Console(file=sys.stderr, highlight=False)


def keep_stdout_for_data() -> None:
    """Send what native libraries print (HiGHS does, whatever its options say) to stderr; Python keeps stdout.

    Where a caller has replaced Python's stdout, there is no file to keep and nothing is done.
    """
    own = sys.__stdout__
    if own is None or sys.stdout is not own:
        return
    own.flush()
    data = os.dup(own.fileno())
    os.dup2(sys.stderr.fileno(), own.fileno())
    sys.stdout = os.fdopen(data, "w", encoding=own.encoding)


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object and nothing else."""
    sys.stdout.write(json.dumps(value) + "\n")


@contextmanager
def infeasible_as_json(as_json: bool) -> Iterator[None]:
    """Where no plan can fit, print that as the command's one JSON object too; the error goes on."""
    try:
        yield
    except InfeasibleBudgetError as error:
        if as_json:
            print_json(
                {
                    "status": Status.INFEASIBLE,
                    "budget_bytes": error.budget_bytes,
                    "minimum_budget_bytes": error.minimum_budget_bytes,
                    "minimum_layer": error.layer,
                    "message": str(error),
                }
            )
        raise


def report_written(model: onnx.ModelProto, path: Path, as_json: bool) -> None:
    """Say what a command that made a model has written."""
    nodes, states = len(model.graph.node), len(read_json(model, STATE))
    if as_json:
        print_json({"model": str(path), "nodes": nodes, "states": states})
    else:
        kind = (
            f"training graph of {nodes} operators, {states} state tensors" if states else f"{nodes} operators, forward"
        )
        err().print(f"{path}: {kind}")


class Update(Protocol):
    """Tells a progress bar how far a job is and what it does now."""

    def __call__(self, done: int, total: int, message: str = "") -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """A progress bar on stderr; nothing is drawn where stderr is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, TextColumn("{task.fields[message]}"), console=err(), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(title, total=None, message="")

        def update(done: int, total: int, message: str = "") -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield update
