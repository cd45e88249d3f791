"""Processes killed and interrupted at any moment: files are whole, training goes on bit for bit, nothing is left."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from support import networks
from support.plans import random_plan

from benchmarks.reliability.count import Count
from planc.runtime.measure import synthetic_feeds
from planc.runtime.state import read_state
from planc.runtime.step import load

_STEPS = 40
_TRAIN = """
import sys
from pathlib import Path
from support import networks
from support.plans import random_plan
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import load
imported = networks.mlp()
print("ready", flush=True)
with load(random_plan(imported, 1, True), imported) as step:
    for index in range(10**9):
        step(synthetic_feeds(imported.graph, index))
        step.save_state(Path(sys.argv[1]))
        print(index, flush=True)
"""


def killed(scale: int) -> dict[str, Count]:
    """SIGKILL while a run saves its state after every step: the file is that of one of its steps, and nothing else."""
    count, expected = Count(), _states()
    for serial in range(3 * scale):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "state.safetensors"
            done = _until_killed(path, random.Random(serial).uniform(0, 0.05), signal.SIGKILL)
            count.add(_not_a_state(path, expected, done))
    return {"runs killed while they save": count}


def interrupted(scale: int) -> dict[str, Count]:
    """SIGINT at any moment of a command: exit code 130, no traceback, no temporary file."""
    count = Count()
    for serial in range(3 * scale):
        with tempfile.TemporaryDirectory() as name:
            program = "import sys; sys.argv[0] = 'planc'; from planc.cli.main import main; main()"
            arguments = ["zoo", "build", "resnet18", "--image", "64", "-o", "m.onnx"]
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments], cwd=name, stderr=subprocess.PIPE, text=True
            )
            time.sleep(random.Random(serial).uniform(1.0, 4.0))
            process.send_signal(signal.SIGINT)
            message = process.communicate(timeout=60)[1]
            left = [path for path in os.listdir(name) if path != "m.onnx"]
            sound = process.returncode in (0, 130) and "Traceback" not in message and not left
            count.add(None if sound else f"{process.returncode}, {left}, {message[-200:]}")
    return {"commands interrupted": count}


def _until_killed(path: Path, wait: float, number: int) -> int:
    """Steps that a training process has finished when it is killed, `wait` seconds after a random step."""
    process = subprocess.Popen([sys.executable, "-c", _TRAIN, str(path)], stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout or ())
    next(lines)
    done = int(next(lines))
    time.sleep(wait)
    process.send_signal(number)
    process.wait()
    return max([done, *(int(line) for line in lines if line.strip().isdigit())])


def _states() -> list[dict[str, bytes]]:
    """The state after each step of an undisturbed run."""
    imported = networks.mlp()
    found = []
    with load(random_plan(imported, 1, True), imported) as step:
        for index in range(_STEPS):
            step(synthetic_feeds(imported.graph, index))
            found.append({name: np.asarray(value).tobytes() for name, value in step.state().items()})
    return found


def _not_a_state(path: Path, expected: list[dict[str, bytes]], done: int) -> str | None:
    if done >= len(expected) - 1:
        return None  # more steps than are known: nothing to compare with
    saved = {name: np.asarray(value).tobytes() for name, value in read_state(path).items()}
    known = {name: saved.get(name) for name in expected[0]}
    return None if known in expected[done : done + 2] else f"after step {done} the file holds another state"
