"""Processes that begin with planc imported, and with nothing started: forks of a server that has only imported it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([
    "support.networks", "support.plans", "planc.runtime.step", "planc.runtime.measure", "planc.cli.main",
    "planc.cli.compile", "planc.cli.profile", "planc.cli.run", "planc.cli.zoo", "planc.cli.pack", "planc.cli.solve",
])  # fmt: skip


def started(target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
    """A process that runs `target` with one end of a pipe and the arguments, and the pipe's other end."""
    here, there = _SERVER.Pipe()
    process = _SERVER.Process(target=_interruptible, args=(target, there, *arguments), daemon=True)
    process.start()
    there.close()
    return process, here


def _interruptible(target: Callable[..., None], *arguments: object) -> None:
    """`target` with Ctrl-C as a terminal has it: shells start what runs in the background without."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target(*arguments)


def sent(pipe: Connection) -> list[object]:
    """What has been sent and not been received; to be asked for when the process has ended."""
    found: list[object] = []
    try:
        while pipe.poll():
            found.append(pipe.recv())
    except (EOFError, ConnectionError):
        pass
    return found


def planc_command(pipe: Connection, folder: Path, arguments: tuple[str, ...]) -> None:
    """`planc ARGUMENTS` in `folder`, its messages in the file `messages`, the cache of costs below it; Ctrl-C counts from
    where the command begins."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from planc.cli.main import main

    os.chdir(folder)
    os.environ["PLANC_CACHE_DIR"] = str(folder / "cache")
    messages = os.open("messages", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    sys.argv = ["planc", *arguments]
    pipe.send("ready")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
