"""One command in a child process under limits: how it ended, how long it took, what it needed, what it opened."""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from planc.cli.main import app
from planc.errors import PlancError

SECONDS = 20
"""Processor time of a command at most: five seconds of its own, and what a busy machine adds to a fork."""

BYTES = 1 << 30
"""Memory beyond what the parent has mapped."""

_CODES = {0, 2, 3, 4, 5, 6, 7}


def command(arguments: Sequence[object], folder: Path) -> str | None:
    """None when `planc ARGUMENTS` in `folder` ends with a result or a typed error within the limits and opens no file of
    `/etc` or beside the folder, else what it did."""
    return in_child(lambda: run_here([str(a) for a in arguments], folder))


def in_child(work: Callable[[], str | None]) -> str | None:
    """What `work` says, in a fork of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _limit()
        text: str | None
        try:
            text = work()
        except BaseException as error:
            text = f"{type(error).__name__}: {str(error)[:200]}"
        os.write(write, json.dumps(text).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        said = stream.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(said) if said else f"killed by signal {os.WTERMSIG(status)}"


def _limit() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(10 * SECONDS)


def run_here(arguments: list[str], folder: Path) -> str | None:
    """`command`, in this process, which is spent then."""
    os.chdir(folder)
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(arguments, standalone_mode=False)
            code, text = 0, "done"
        except (PlancError, click.ClickException) as error:
            code, text = error.exit_code, str(error)
        except SystemExit as error:
            code, text = int(error.code or 0), "exit"
    if code not in _CODES or not text:
        return f"exit code {code}, {text!r}"
    strange = [path for path in opened if path.startswith(("/etc", "/dev/zero")) or "secret" in path]
    if strange:
        return f"opened {strange[0]}"
    spent = time.process_time() - started
    return f"{spent:.1f} s" if spent > 5 else None
