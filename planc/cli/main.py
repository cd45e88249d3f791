"""The command line: finds the commands, whose code is imported when it is needed, and turns errors into messages and
exit codes."""

import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from io import StringIO
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from planc.cli.streams import discard_data, prepare_streams
from planc.errors import DeviceError, OutputError, PlancError, PlancWarning
from planc.printable import printable


class _Command(NamedTuple):
    """The function, or group of commands, behind a command in the module of the command's name, and what it does."""

    function: str
    summary: str


_COMMANDS = {
    "grad": _Command("grad", "Forward ONNX model to training graph."),
    "import-ort": _Command("import_ort", "Artifacts of onnxruntime-training to training graph."),
    "widen": _Command("widen_command", "Half precision to float32 where a device has no kernel."),
    "zoo": _Command("zoo", "Networks that planc builds itself."),
    "estimate": _Command("estimate", "What a step needs, before any work."),
    "profile": _Command("profile", "Measure layers, scratch and copies."),
    "costs": _Command("costs", "What was profiled, layer by layer."),
    "compile": _Command("compile_command", "Training graph to memory plan within a budget."),
    "inspect": _Command("inspect", "A plan for people: text, page, trace."),
    "verify": _Command("verify_command", "Prove that a plan computes its model in its budget."),
    "run": _Command("run", "Execute a plan, beside the unplanned step if asked."),
    "compare": _Command("compare_command", "Solvers against each other over budgets."),
    "solve": _Command("solve", "The solver alone, on a bare graph instance."),
    "pack": _Command("pack", "Offsets for buffers, MiniMalloc's CSV format."),
    "doctor": _Command("doctor", "What is installed and what works here."),
    "completion": _Command("completion", "Completion for bash, zsh or fish."),
}


_GC_THRESHOLD = 100_000
"""New objects between two searches for garbage cycles: a graph is millions of objects and no cycle."""


INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Stopped(Exception):
    """An interrupt on its way through typer, which would end the program without a word; says what was kept."""


class _Commands(TyperGroup):
    """Imports a command when it is called; the help page needs none of them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Stopped(str(stop)) from stop

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in _COMMANDS.items()])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            near = get_close_matches(cmd_name, _COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(_COMMANDS)}"
            ctx.fail(f"unknown command {cmd_name!r}: {hint}")
        found = getattr(import_module(f"planc.cli.{cmd_name.replace('-', '_')}"), _COMMANDS[cmd_name].function)
        alone = typer.Typer(
            add_completion=False, rich_markup_mode=None, callback=lambda: None, context_settings=_CONTEXT
        )
        if isinstance(found, typer.Typer):
            alone.add_typer(found, name=cmd_name)
        else:
            alone.command(cmd_name)(found)
        return get_group(alone).commands[cmd_name]


app = typer.Typer(
    cls=_Commands,
    name="planc",
    help="Compile a training step into a memory plan that fits: swap, recompute and reuse, certified and verified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
)


def all_commands() -> Iterator[tuple[str, Any]]:
    """Full name and command of each, groups opened; all of their code is imported."""
    root = get_command(app)
    context = typer.Context(root)
    for name in _COMMANDS:
        found = root.get_command(context, name)  # type: ignore[attr-defined]
        if hasattr(found, "commands"):
            yield from ((f"{name} {inner}", command) for inner, command in found.commands.items())
        else:
            yield name, found


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"planc {version('planc')}")
        raise typer.Exit


@app.callback()
def _planc(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Compile a training step into a memory plan that fits: swap, recompute and reuse, certified and verified."""


def main() -> None:
    """Entry point of the `planc` program. Every failure is one message on stderr and an exit code."""
    prepare_streams()
    warnings.showwarning = _show_warning
    gc.set_threshold(_GC_THRESHOLD)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except PlancError as error:
        _fail(f"planc: {error}\n", error.exit_code)
    except MemoryError:
        _fail("planc: this machine has not enough memory for what was asked\n", DeviceError.exit_code)
    except (_Stopped, KeyboardInterrupt, typer.Abort) as stop:
        kept = f"; {stop}" if isinstance(stop, _Stopped) and str(stop) else ""
        _fail(f"planc: interrupted{kept}\n", INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show"):  # the command line itself is wrong; typer keeps the type of such errors to itself
            _fail(_usage(error), 2)
        if os.environ.get("PLANC_DEBUG"):
            raise
        text = f"planc: internal error: {type(error).__name__}: {error} (set PLANC_DEBUG=1 for the traceback)\n"
        _fail(text, 1)
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Tell what planc warns of; what libraries warn of is for their callers, not for users."""
    if issubclass(category, PlancWarning) and sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write(printable(f"planc: warning: {message}\n"))


def _usage(error: Any) -> str:
    """What typer says of a wrong command line: how to call the command, and what was wrong."""
    text = StringIO()
    error.show(file=text)
    return text.getvalue()


def _fail(message: str, code: int) -> NoReturn:
    with suppress(OSError):  # nobody can be told, but the exit code tells
        sys.stderr.write(printable(message))
        sys.stderr.flush()
    try:
        sys.stdout.flush()  # what was written before the failure is data too
    except OutputError:
        discard_data()
    sys.exit(code)
