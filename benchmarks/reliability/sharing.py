"""Several at once: threads on one step, several steps in a process, several processes on one disk, forked children."""

import os
import random
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from support import networks
from support.plans import random_plan

from benchmarks.reliability.count import Count
from benchmarks.reliability.forks import started
from planc.errors import DeviceError
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.runtime.measure import synthetic_feeds
from planc.runtime.state import read_state
from planc.runtime.step import TrainingStep, load

_STEPS = 12
State = dict[str, bytes]


def sharing(scale: int) -> dict[str, Count]:
    """Whatever runs beside it, a step computes what it computes alone, or refuses with a message."""
    threads, plans, processes, forks = Count(), Count(), Count(), Count()
    for serial in range(2 * scale):
        rng = random.Random(serial)
        threads.add(_threads(rng))
        plans.add(_plans(rng))
        forks.add(_fork(rng))
    for serial in range(scale):
        processes.add(_processes(serial))
    return {
        "steps called by several threads": threads,
        "steps of several plans in one process": plans,
        "processes that swap to one folder": processes,
        "forks of a process with a step": forks,
    }


def _chosen(rng: random.Random) -> tuple[ImportedModel, Plan]:
    build = rng.choice((networks.mlp, networks.cnn, networks.adam_mlp))
    return build(), random_plan(build(), rng.randrange(20), rng.random() < 0.5)


def _bytes(step: TrainingStep) -> State:
    return {name: np.asarray(value).tobytes() for name, value in step.state().items()}


def _alone(imported: ImportedModel, plan: Plan) -> State:
    """The state after `_STEPS` equal batches."""
    with load(plan, imported) as step:
        for _ in range(_STEPS):
            step(synthetic_feeds(imported.graph, 1))
        return _bytes(step)


def _threads(rng: random.Random) -> str | None:
    """Four threads take steps with equal batches, and read and save the state meanwhile: as if one had taken them."""
    imported, plan = _chosen(rng)
    want, failures = _alone(imported, plan), list[BaseException]()
    with load(plan, imported) as step, tempfile.TemporaryDirectory() as folder:

        def work(number: int) -> None:
            try:
                for _ in range(_STEPS // 4):
                    step(synthetic_feeds(imported.graph, 1))
                    step.state() if number % 2 else step.save_state(Path(folder) / f"{number}.safetensors")
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failures:
            return f"a thread failed: {failures[0]!r}"
        return None if _bytes(step) == want else "the state is another than one thread makes"


def _plans(rng: random.Random) -> str | None:
    """Two plans of one model and one of another, in turns."""
    (first, one), (other, third) = _chosen(rng), _chosen(rng)
    two = random_plan(first, rng.randrange(20), rng.random() < 0.5)
    pairs = [(first, one), (first, two), (other, third)]
    want = [_alone(imported, plan) for imported, plan in pairs]
    steps = [load(plan, imported) for imported, plan in pairs]
    try:
        turns = [index for index in range(3) for _ in range(_STEPS)]
        rng.shuffle(turns)
        for index in turns:
            steps[index](synthetic_feeds(pairs[index][0].graph, 1))
        return None if [_bytes(step) for step in steps] == want else "a step is disturbed by another"
    finally:
        for step in steps:
            step.close()


def _processes(serial: int) -> str | None:
    """Two processes with one folder for swapped bytes, which save one state file after every step, over each other."""
    rng = random.Random(serial)
    imported, plan = _chosen(rng)
    want = _alone(imported, plan)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        workers = [started(_swap, serial, Path(folder)) for _ in range(2)]
        ends = [_received(pipe) for _, pipe in workers]  # before they are waited for: a pipe holds little
        for process, _ in workers:
            process.join(60)
        if ends != [want, want]:
            return f"the processes end with {[process.exitcode for process, _ in workers]}, or other states"
        saved = {name: np.asarray(value).tobytes() for name, value in read_state(Path(folder) / "state").items()}
        left = sorted(path.name for path in Path(folder).iterdir())
        return None if saved == want and left == ["state"] else f"the saved state is another, or {left} are left"


def _received(pipe: Connection) -> object:
    """What a process sends, None where it ends or two minutes pass before."""
    try:
        return pipe.recv() if pipe.poll(120) else None
    except (EOFError, ConnectionError):
        return None


def _swap(pipe: Connection, serial: int, folder: Path) -> None:
    imported, plan = _chosen(random.Random(serial))
    with load(plan, imported, host_tier=f"file:{folder}") as step:
        for _ in range(_STEPS):
            step(synthetic_feeds(imported.graph, 1))
            step.save_state(folder / "state")
        pipe.send(_bytes(step))


def _fork(rng: random.Random) -> str | None:
    """A child forked between two steps is refused by every call and ends; the parent's step goes on as if alone."""
    imported, plan = _chosen(rng)
    want, at = _alone(imported, plan), rng.randrange(_STEPS)
    with load(plan, imported) as step:
        for index in range(_STEPS):
            if index == at:
                child = os.fork()
                if child == 0:
                    os._exit(_refused(step, imported))
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if status:
                    return f"call {status} of the child is not refused"
            step(synthetic_feeds(imported.graph, 1))
        return None if _bytes(step) == want else "the parent's state is another after the fork"


def _refused(step: TrainingStep, imported: ImportedModel) -> int:
    """0 where every call of the child is refused, else the number of the first that is not."""
    feeds = synthetic_feeds(imported.graph, 1)
    calls = (lambda: step(feeds), step.state, lambda: step.set_state({}), lambda: step.save_state("/dev/null"))
    for number, call in enumerate(calls, 1):
        try:
            call()
        except DeviceError:
            continue
        except BaseException:  # the child must not go on with the campaign
            return number
        return number
    step.close()
    return 0
