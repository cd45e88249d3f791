"""Measures the way between ranks: as many processes as ranks, on this machine, that sum over each other.

What is measured holds for ranks of one host. Where the machine has fewer cards than ranks, the catalogue's figures of the
card are taken.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from planc.costs.cards import CARDS
from planc.costs.catalogue import estimate_exchange
from planc.costs.table import ExchangeLink
from planc.errors import DeviceError
from planc.profiling.target import Target

_LIMIT_S = 120
"""Seconds for all processes together: they start PyTorch first."""

_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK")
"""What a launcher sets for its ranks, which these processes are not."""


def measure_exchange(ranks: int, target: Target) -> ExchangeLink:
    """The link between so many ranks with a device of the target's kind each. Raises DeviceError where it fails."""
    words = target.kind.identity(target.index)
    if target.kind.count() < ranks:
        card = next((name for name in sorted(CARDS) if any(name in word.lower().split() for word in words)), None)
        if card is None:
            raise DeviceError(
                f"{ranks} ranks were asked for, and there are {target.kind.count()} devices {words[0]!r} here, which the "
                f"catalogue does not know: profile where all are, or compile for one of {', '.join(sorted(CARDS))}"
            )
        return estimate_exchange(card, ranks)
    processes = [_started(rank, ranks, port, target) for port in (_free_port(),) for rank in range(ranks)]
    try:
        outputs = [process.communicate(timeout=_LIMIT_S) for process in processes]
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"exchanges between {ranks} ranks were not measured within {_LIMIT_S} s") from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, text) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise DeviceError(
                f"exchanges between {ranks} ranks cannot be measured: {(text.strip().splitlines() or ['?'])[-1]}"
            )
    points, facts = msgspec.json.decode(outputs[0][0])
    return msgspec.convert(
        {"ranks": ranks, "points": points, "name": f"{ranks} x {words[0]}, measured", **facts}, ExchangeLink
    )


def _started(rank: int, ranks: int, port: int, target: Target) -> subprocess.Popen[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in _LAUNCHED and "TORCHELASTIC" not in name
    }
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PLANC_RANK_TIMEOUT": str(_LIMIT_S)}
    arguments = [sys.executable, "-m", "planc.profiling.exchange_probe", target.kind.name]
    folder = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), folder)))
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
