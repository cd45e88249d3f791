"""Where commands print: data on stdout, messages and progress on stderr, one JSON object with --json."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from planc.enums import Status
from planc.errors import InfeasibleBudgetError
from planc.printable import printable

if TYPE_CHECKING:
    import onnx


class _Printable:
    """What a console shows, with every control character in it escaped: names come from files."""

    def __init__(self, content: ConsoleRenderable) -> None:
        self.content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for segment in console.render(self.content, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Escapes(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(each) for each in renderables]


def _console(stream: TextIO, soft_wrap: bool | None = None) -> Console:
    """A console that shows text as it is: square brackets are no markup, colons no emoji, escapes no commands."""
    console = Console(file=stream, soft_wrap=bool(soft_wrap), highlight=False, markup=False, emoji=False)
    console.push_render_hook(_Escapes())
    return console


def out() -> Console:
    """The console for data."""
    return _console(sys.stdout, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """The console for messages and progress."""
    return _console(sys.stderr)


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object and nothing else; numbers that JSON lacks, such as the loss after a divergence, are null."""
    import msgspec

    sys.stdout.write(json.dumps(msgspec.json.decode(msgspec.json.encode(value))) + "\n")


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


def report_written(written: Sequence[tuple["onnx.ModelProto", Path]], as_json: bool) -> None:
    """Say what a command that made a model, or one for each rank, has written."""
    found = [_described(model, path, as_json) for model, path in written]
    if as_json:
        print_json(found[0] if len(found) == 1 else {"ranks": found})


def _described(model: "onnx.ModelProto", path: Path, as_json: bool) -> dict[str, object]:
    """Sizes of a model, which are printed unless they are for JSON."""
    from planc.graph.annotations import STATE, read_json  # few commands make a model
    from planc.importer.import_model import import_model
    from planc.importer.load import ModelFile

    nodes, states = len(model.graph.node), len(read_json(model, STATE))
    step = import_model(ModelFile(model, path)) if states else None
    if step is not None and not as_json:
        size = f"{len(step.graph.layers):,} layers, {step.operators:,} operators, {states:,} state tensors"
        err().print(f"{path}: training graph of {size}")
    elif not as_json:
        err().print(f"{path}: {nodes:,} nodes, forward")
    counts = {} if step is None else {"layers": len(step.graph.layers), "operators": step.operators}
    return {"model": str(path), "nodes": nodes, "states": states, **counts}


class Update(Protocol):
    """Tells a progress bar how far a job is and what it does now."""

    def __call__(self, done: int, total: int, message: str = "") -> None: ...


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """A progress bar on stderr; nothing is drawn where stderr is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        TextColumn("{task.fields[message]}", markup=False),
        console=err(),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(title, total=None, message="")

        def update(done: int, total: int, message: str = "") -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield update


def parts(update: Update, titles: Sequence[str]) -> Iterator[Update]:
    """For each of several jobs, one behind the other on one bar, what tells it how far that job is; its title, if it has
    one, stands before its messages."""
    for at, title in enumerate(titles):
        prefix = f"{title}: " if title else ""

        def part(done: int, total: int, message: str = "", at: int = at, prefix: str = prefix) -> None:
            update(at * total + done, len(titles) * total, prefix + message)

        yield part
