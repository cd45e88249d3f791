"""The command line: registers the commands and turns errors into messages and exit codes."""

import os
import sys

import typer

from planc.cli.compare import compare_command
from planc.cli.compile import compile_command
from planc.cli.console import keep_stdout_for_data
from planc.cli.doctor import doctor
from planc.cli.grad import grad
from planc.cli.import_ort import import_ort
from planc.cli.inspect import inspect
from planc.cli.pack import pack
from planc.cli.profile import profile
from planc.cli.run import run
from planc.cli.solve import solve
from planc.cli.verify import verify_command
from planc.cli.zoo import zoo
from planc.errors import PlancError

app = typer.Typer(
    name="planc",
    help="Compile a training step into a memory plan that fits: swap, recompute and reuse, certified and verified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(zoo, name="zoo")
app.command("grad")(grad)
app.command("import-ort")(import_ort)
app.command("profile")(profile)
app.command("compile")(compile_command)
app.command("inspect")(inspect)
app.command("verify")(verify_command)
app.command("run")(run)
app.command("compare")(compare_command)
app.command("solve")(solve)
app.command("pack")(pack)
app.command("doctor")(doctor)


def main() -> None:
    """Entry point of the `planc` program. Every failure is one message on stderr and an exit code."""
    keep_stdout_for_data()
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
