"""Processes killed and interrupted at any moment: files are whole, training goes on bit for bit, nothing is left."""

import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
from support import networks
from support.costs import made_up_costs
from support.plans import random_plan
from support.zoo_networks import MOMENTUM, small_step

from benchmarks.reliability.count import Count
from benchmarks.reliability.forks import planc_command, sent, started
from planc.costs.store import read_costs, write_costs
from planc.errors import PlancError
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Plan
from planc.runtime.measure import synthetic_feeds
from planc.runtime.step import TrainingStep, load
from planc.verifier.verify import verify

_STEPS = 400
_INTERRUPTS = 20
State = dict[str, bytes]


def killed(scale: int) -> dict[str, Count]:
    """SIGKILL while a run saves its state after every step: the file is that of one of its steps, and training goes on
    from it bit for bit. SIGKILL while layers are profiled and plans compiled: files are whole, and the command ends well
    when it is given again."""
    saves, commands, expected = Count(), Count(), list(_states())
    with _loaded() as step:
        for serial in range(2 * scale):
            with tempfile.TemporaryDirectory() as name:
                saves.add(_killed_save(Path(name) / "state.safetensors", expected, step, random.Random(serial)))
    for serial in range(scale):
        for what in (("profile",), ("compile",)):
            with tempfile.TemporaryDirectory() as name:
                commands.add(_killed_command(Path(name), what[0], random.Random(f"{what} {serial}")))
    return {"runs killed while they save": saves, "profiles and compilations killed": commands}


def interrupted(scale: int) -> dict[str, Count]:
    """SIGINT at any moment of a step: it has happened or has not, and the next one is right. SIGINT at any moment of a
    command: exit code 130, no traceback, no temporary file."""
    steps, commands = Count(), Count()
    process, pipe = started(_interrupted_steps, _INTERRUPTS * scale)
    with suppress(EOFError, ConnectionError):  # as they come: a pipe holds a few hundred, and the process then waits
        while True:
            fault = pipe.recv()
            steps.add(str(fault) if fault else None)
    process.join()
    if process.exitcode or steps.tried != _INTERRUPTS * scale:
        steps.add(f"the process ended with {process.exitcode} after {steps.tried} interrupts")
    for serial in range(scale):
        for name, arguments in _COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                commands.add(_interrupted_command(Path(folder), name, arguments, random.Random(f"{name} {serial}")))
    return {"steps interrupted": steps, "commands interrupted": commands}


def _loaded() -> TrainingStep:
    imported = networks.mlp()
    return load(random_plan(imported, 1, True), imported)


def _bytes(step: TrainingStep) -> State:
    return {name: np.asarray(value).tobytes() for name, value in step.state().items()}


def _states() -> Iterator[State]:
    """The state after each step of an undisturbed run."""
    with _loaded() as step:
        for index in range(_STEPS):
            step(synthetic_feeds(step.imported.graph, index))
            yield _bytes(step)


# --- killed


def _train(pipe: Connection, path: Path) -> None:
    with _loaded() as step:
        for index in range(_STEPS - 2):
            step(synthetic_feeds(step.imported.graph, index))
            step.save_state(path)
            pipe.send(index)


def _killed_save(path: Path, expected: list[State], step: TrainingStep, rng: random.Random) -> str | None:
    process, pipe = started(_train, path)
    done = int(pipe.recv())
    time.sleep(rng.uniform(0, 0.05))
    process.kill()
    process.join()
    done = max([done, *(index for index in sent(pipe) if isinstance(index, int))])
    step.load_state(path)
    at = next((k for k in (done, done + 1) if _bytes(step) == expected[k]), None)
    if at is None:
        return f"after step {done} the file holds another state"
    step(synthetic_feeds(step.imported.graph, at + 1))
    return None if _bytes(step) == expected[at + 1] else f"from the state after step {at} training went on differently"


def _model(folder: Path) -> ImportedModel:
    onnx.save(small_step("mlp", MOMENTUM), folder / "train.onnx")
    return import_model(folder / "train.onnx")


_KILLED: dict[str, tuple[str, ...]] = {
    "profile": ("profile", "train.onnx", "-o", "out.json"),
    "compile": (
        *["compile", "train.onnx", "--costs", "costs.json", "--budget", "90%", "--time-limit", "0.5"],
        "-o",
        "out.json",
    ),
}


def _killed_command(folder: Path, name: str, rng: random.Random) -> str | None:
    imported = _model(folder)
    write_costs(made_up_costs(imported.graph, scratch=4 << 10), folder / "costs.json")
    process, pipe = started(planc_command, folder, _KILLED[name])
    pipe.recv()
    time.sleep(rng.uniform(0, 1.5))
    process.kill()
    process.join()
    fault = _not_whole(folder / "out.json", name, imported) if (folder / "out.json").exists() else None
    if fault is not None:
        return f"{name}: {fault}"
    again, _ = started(planc_command, folder, _KILLED[name])
    again.join()
    if again.exitcode:
        return f"{name}: given again it ends with {again.exitcode}: {(folder / 'messages').read_text()[-200:]}"
    return _not_whole(folder / "out.json", name, imported)


def _not_whole(path: Path, name: str, imported: ImportedModel) -> str | None:
    """What is wrong with a cost table or plan."""
    try:
        if name == "profile":
            read_costs(path)
        elif verify(imported.graph, Plan.load(path)):
            return "the plan is not valid"
    except PlancError as error:
        return str(error)
    return None


# --- interrupted


def _interrupted_steps(pipe: Connection, times: int) -> None:
    """Sends what was wrong after each interrupt, an empty text where nothing was."""
    states, rng = [], random.Random(times)
    with _loaded() as step:
        states.append(_bytes(step))
        started_at = time.monotonic()
        for index in range(20):
            step(synthetic_feeds(step.imported.graph, index))
            states.append(_bytes(step))
        usual = (time.monotonic() - started_at) / 20
        step.save_state("/dev/null")
        for _ in range(times):
            step.set_state(_arrays(step, states[0]))
            pipe.send(_interrupted(step, states, rng.uniform(0, 2.5 * usual)))


def _arrays(step: TrainingStep, state: State) -> dict[str, np.ndarray]:
    like = step.state()
    return {name: np.frombuffer(data, like[name].dtype).reshape(like[name].shape) for name, data in state.items()}


def _interrupted(step: TrainingStep, states: list[State], delay: float) -> str:
    timer, done = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)), step.steps
    try:
        timer.start()
        for index in range(len(states) - 2):
            step(synthetic_feeds(step.imported.graph, index))
        timer.join()
        time.sleep(1)
    except KeyboardInterrupt:
        finished = step.steps - done
        if _bytes(step) != states[finished]:
            return f"after {finished} steps and an interrupt the state is another"
        step(synthetic_feeds(step.imported.graph, finished))
        return "" if _bytes(step) == states[finished + 1] else "the step after an interrupt makes another state"
    return "the interrupt was lost"


_COMMANDS: dict[str, tuple[str, ...]] = {
    "zoo": ("zoo", "build", "resnet18", "--image", "64", "--batch", "2", "-o", "out.onnx"),
    "profile": ("profile", "train.onnx", "-o", "out.json"),
    "compile": ("compile", "train.onnx", "--budget", "70%", "--time-limit", "2", "-o", "out.json"),
    "run": ("run", "train.plan.json", "--model", "train.onnx", "--steps", "500"),
}  # fmt: skip
_FILES = {"messages", "cache", "train.onnx", "train.plan.json", "out.onnx", "out.onnx.data", "out.json"}


def _interrupted_command(folder: Path, name: str, arguments: tuple[str, ...], rng: random.Random) -> str | None:
    if name != "zoo":
        random_plan(_model(folder), 1, True).save(folder / "train.plan.json")
    process, pipe = started(planc_command, folder, arguments)
    pipe.recv()
    time.sleep(rng.uniform(0, 1.5))
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
    process.join(60)
    message = (folder / "messages").read_text()
    left = [str(path.relative_to(folder)) for path in _files(folder) if path.name.endswith(".planc")]
    left += [path.name for path in folder.iterdir() if path.name not in _FILES]
    sound = process.exitcode in (0, 130) and "Traceback" not in message and not left
    return None if sound else f"{name}: {process.exitcode}, {left}, {message[-200:]}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
