"""What makes a loaded step one of several ranks': plans of one step, the same state, one file."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import numpy as np

from planc.errors import PlanError, UsageError
from planc.graph.graph import Graph, Role, Shards
from planc.plan.plan import Plan
from planc.runtime.ranks.gloo import Gloo
from planc.runtime.ranks.group import RankGroup, current_group, place
from planc.runtime.ranks.settings import Settings, shown, title_of
from planc.runtime.state import Generators

_HASH = 16

State = Mapping[str, np.ndarray[Any, Any]]

Snapshot = tuple[State, Generators | None]


class Together:
    """The part of a step that other ranks share in; without a group, a step alone.

    `changed` says that state was replaced since the ranks last compared it.
    """

    def __init__(self, group: RankGroup | None, shards: Shards | None = None) -> None:
        self.group, self._shards = group, shards
        self.changed = True
        self._link: Gloo | None = None

    @property
    def rank(self) -> int:
        return 0 if self.group is None else self.group.rank

    def failing(self) -> AbstractContextManager[None]:
        """Around what this rank does alone: the others hear of its failure."""
        return nullcontext() if self.group is None else self.group.failing()

    @contextmanager
    def stepping(self, step: int, state: Callable[[], State], settings: Settings) -> Iterator[None]:
        """Around step number `step`, which begins in the same state and has the same `settings` on all ranks."""
        if self.group is None:
            yield
            return
        with self.group.failing():
            self.group.step = step
            self.group.settings.use(settings)
            if self.changed:
                said = _digests(self._of_all(state())) | {
                    title_of(name): shown(value) for name, value in settings.items()
                }
                self.group.agree("state", said, "load the same state on every rank")
                self.changed = False
            self.group.require_alike()
            yield

    def once(
        self, topic: str, act: Callable[[State, Generators | None], None], snapshot: Callable[[], Snapshot]
    ) -> None:
        """Act on rank 0 alone, with the state of all ranks and its own generators, while the others wait and share in its
        failure. `snapshot` takes both at one moment."""
        if self.group is None:
            act(*snapshot())
            return
        with self.group.failing():
            self.group.require_alike()
            mine, generators = snapshot()
            advice = "hyper-parameters and loaded state must be the same on every rank"
            self.group.agree(topic, _digests(self._of_all(mine)), advice)
            whole = self._gathered(mine)
        self.group.once(topic, lambda: act(whole, generators))

    def is_elsewhere(self, name: str) -> bool:
        """Whether the state is one that another rank alone has."""
        return self._shards is not None and self._shards.owners.get(name, self._shards.rank) != self._shards.rank

    def _of_all(self, state: State) -> State:
        """What every rank has."""
        alone = () if self._shards is None else self._shards.owners
        return {name: value for name, value in state.items() if name not in alone}

    def _gathered(self, state: State) -> State:
        """On rank 0 the state of all ranks; elsewhere that of this rank."""
        if self.group is None or self._shards is None:
            return state
        if self._link is None:
            self._link = Gloo(self.group, f"state.{self.group.serial()}")
        mine = {name: np.ascontiguousarray(state[name]) for name in state.keys() & self._shards.owners}
        listed = [[name, value.dtype.name, value.shape] for name, value in sorted(mine.items())]
        heard = self.group.meet("state of each", json.dumps(listed))
        found = dict(state)
        for rank in range(1, self.group.size):
            for name, kind, shape in json.loads(heard[rank]):
                if self.group.rank == 0:
                    found[name] = np.empty(shape, kind)
                    self._link.receive(found[name], rank)
                elif self.group.rank == rank:
                    self._link.send(mine[name], 0)
        return found

    def leave(self) -> None:
        """This rank takes no further part."""
        if self.group is not None:
            self.group.leave()


def group_for(plan: Plan, name: str) -> RankGroup | None:
    """The group that executes a plan, None for a plan of one rank.

    Raises UsageError for a process that was not started as one of so many ranks.
    """
    if plan.ranks == 1:
        return None
    where = place()
    if where is None:
        raise UsageError(
            f"{name} is for {plan.ranks} ranks, this process is alone: start it with torchrun --nproc-per-node {plan.ranks}"
        )
    if where.size != plan.ranks:
        raise PlanError(
            f"{name} is for {plan.ranks} ranks, {where.size} were started: compile the step for {where.size}, or start "
            f"{plan.ranks}"
        )
    return current_group()


def greet(group: RankGroup, plan: Plan, graph: Graph) -> None:
    """Raise RankError on every rank unless all have this planc, model and order of exchanges; it names what differs. Raises
    PlanError for another rank's plan."""
    if plan.rank not in (None, group.rank):
        raise PlanError(f"the plan is that of rank {plan.rank}, this is rank {group.rank}: give every rank its own")
    batch = (graph.tensors[t] for t in graph.inputs if graph.storages[graph.tensors[t].storage].role is Role.BATCH)
    shapes = {f"shape of batch input {t.name!r}": str(list(t.shape)) for t in batch}
    shards = graph.shards
    said = {
        "version of planc": version("planc"),
        "number of ranks": str(plan.ranks),
        **shapes,
        "model": (graph.content_hash if shards is None else shards.step)[:_HASH],
        "plan (order of exchanges)": plan.exchange_hash[:_HASH],
    }
    own = "every rank the same plan and model" if shards is None else "every rank its own of the plans for one step"
    group.agree("plan", said, f"give {own}")


def _digests(state: State) -> dict[str, str]:
    """A hash of all, and of each so that the first that differs can be named."""
    found = {
        f"state {name!r}": blake2b(np.ascontiguousarray(value).tobytes(), digest_size=_HASH).hexdigest()
        for name, value in state.items()
    }
    whole = blake2b(json.dumps(found).encode(), digest_size=_HASH).hexdigest()
    return {**found, "state": whole}
