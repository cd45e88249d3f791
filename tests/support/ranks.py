"""Runs the ranks of a step as processes of this machine, as a launcher would start them."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]

LIMIT_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code, what it printed as JSON, and its messages."""

    code: int
    said: Any
    messages: str


def environment(rank: int, size: int, port: int, **more: str) -> dict[str, str]:
    """What a launcher says to a rank."""
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PLANC_RANK_TIMEOUT": "60"}
    return {**os.environ, **threads, **launched, "MASTER_PORT": str(port), **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(orders: list[dict[str, Any]], size: int | None = None, **more: str) -> list[subprocess.Popen[str]]:
    """One process a rank, each of which follows its orders: see `support.rank_worker`."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", "support.rank_worker", json.dumps(order)],
            env=environment(rank, size or len(orders), port, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, order in enumerate(orders)
    ]


def ended(processes: list[subprocess.Popen[str]], limit_s: float = LIMIT_S) -> list[Ended]:
    """How all of them ended, which they do in time."""
    found = []
    try:
        for process in processes:
            out, messages = process.communicate(timeout=limit_s)
            found.append(Ended(process.returncode, json.loads(out) if out.strip() else None, messages))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return found


def run_ranks(*orders: dict[str, Any], **more: str) -> list[Ended]:
    """Start the ranks and wait for their end."""
    return ended(started(list(orders), **more))
