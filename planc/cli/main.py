"""The command line: finds the commands, whose code is imported when it is needed, and turns errors into messages and
exit codes."""

import gc
import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from planc.cli.console import keep_stdout_for_data
from planc.errors import PlancError

_COMMANDS = {
    "grad": "grad",
    "import-ort": "import_ort",
    "profile": "profile",
    "compile": "compile_command",
    "inspect": "inspect",
    "verify": "verify_command",
    "run": "run",
    "compare": "compare_command",
    "solve": "solve",
    "pack": "pack",
    "doctor": "doctor",
    "zoo": "zoo",
}
"""Each command and the function, or group of commands, behind it in the module of the command's name."""


_GC_THRESHOLD = 100_000
"""New objects between two searches for garbage cycles: a graph is millions of objects and no cycle."""


class _Commands(TyperGroup):
    """Imports a command when it is called, or all of them for the help page."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        found = getattr(import_module(f"planc.cli.{cmd_name.replace('-', '_')}"), _COMMANDS[cmd_name])
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, callback=lambda: None)
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
    callback=lambda: None,
)


def main() -> None:
    """Entry point of the `planc` program. Every failure is one message on stderr and an exit code."""
    keep_stdout_for_data()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        app()
    except PlancError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("PLANC_DEBUG"):
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (set PLANC_DEBUG=1 for the traceback)", 1)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"planc: {message}\n")
    sys.exit(code)
