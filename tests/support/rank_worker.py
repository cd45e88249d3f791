"""`python -m support.rank_worker ORDERS`: one rank, which follows its orders, a JSON object.

`cases` are lists of [model, plan, state to write or "", steps]; `before` has a state to load first. What goes wrong is
asked for by `fail`: [step, how]; `version` is what the rank takes for planc's; `pause` are seconds before each case.
Prints for each case the losses and a hash of the state, as JSON.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from planc.errors import PlancError
from planc.runtime.measure import synthetic_feeds
from planc.runtime.ranks import together
from planc.runtime.ranks.gloo import Gloo
from planc.runtime.step import TrainingStep, load


def state_hash(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].tobytes())
    return digest.hexdigest()


def follow(orders: dict[str, Any]) -> list[dict[str, Any]]:
    said = []
    if "version" in orders:
        together.version = lambda _name: orders["version"]
    for model, plan, target, steps in orders["cases"]:
        time.sleep(orders.get("pause", 0))
        with load(plan, model, seed=orders.get("seed", 0)) as step:
            if orders.get("before"):
                step.load_state(orders["before"])
            losses = [one_step(step, index, orders) for index in range(orders.get("first", 0), steps)]
            if target:
                step.save_state(target)
            said.append({"losses": losses, "state": state_hash(step.state()), "rank": step.rank})
    return said


def one_step(step: TrainingStep, index: int, orders: dict[str, Any]) -> float:
    at, how = orders.get("fail", (-1, ""))
    if index == at:
        fail(step, how)
    graph = step.imported.graph
    feeds: dict[str, Any] = {**synthetic_feeds(graph, index * graph.ranks + step.rank)}
    for name, copies in step.imported.micro_batches.items():
        feeds[name] = [feeds.pop(copy) for copy in copies]
    outputs = step(feeds)
    return float(next(iter(outputs.values())))


def fail(step: TrainingStep, how: str) -> None:
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleep":
        time.sleep(600)
    if how == "raise":
        step({})
    if how == "leave":
        step.close()
        time.sleep(600)
    if how == "state":
        step.set_state({name: value + 1 for name, value in step.state().items()})
    if how == "die saving":
        Gloo.send = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    if how == "lr":
        step.set_hyperparameters(lr=0.5)
    if how == "unwritable":
        step.save_state(Path("/proc/none/state.safetensors"))


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(follow(json.loads(sys.argv[1]))))
    except PlancError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
