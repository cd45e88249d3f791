"""A plan resolved for reading: which run a slot belongs to, what every residency holds, when it is predicted to be
there."""

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate, pairwise

from planc.enums import Direction
from planc.errors import PlanError
from planc.graph.graph import Graph, Role, input_roles
from planc.plan.plan import LayerInfo, Plan
from planc.report.readable import require_readable


class Content(StrEnum):
    """What the bytes of a residency are."""

    STATE = "state"
    """Parameters, optimizer state, running statistics."""

    CONSTANT = "constants"
    BATCH = "batch"

    SAVED = "saved activations"
    """Made in the forward phase, or made again, for a later layer."""

    GRADIENT = "gradients"
    """Made in the backward or update phase for a later layer."""

    TEMPORARY = "temporaries"
    """Made and used up within one run of one layer."""

    SCRATCH = "operator scratch"
    """Working memory of the operators of one segment."""


_CONTENT_OF_ROLE = {Role.STATE: Content.STATE, Role.CONSTANT: Content.CONSTANT, Role.BATCH: Content.BATCH}


@dataclass(frozen=True, slots=True)
class ResidencyView:
    """A residency, resolved. It holds its bytes on the slots [`begin`, `end`), predicted as [`begin_ns`, `end_ns`).

    `end` is that of the plan, or earlier where residency `taken_over_by` gets the same bytes before it: in place, or
    brought back to the address that it was copied out from. So no byte is counted twice; a residency that is brought
    in for the operator that takes its bytes in place has no slot of its own. It is written by run `maker` or by copy
    `brought_by`, or (with neither) is there when the step begins; `copied_out_by` lists the copies that read it.
    """

    index: int
    storage: str
    offset: int
    bytes: int
    begin: int
    end: int
    begin_ns: int
    end_ns: int
    content: Content
    maker: int | None
    brought_by: int | None
    copied_out_by: tuple[int, ...]
    taken_over_by: int | None


@dataclass(frozen=True)
class PlanView:
    """A plan with its layers' names; make one with `view_of`."""

    plan: Plan
    layers: tuple[LayerInfo, ...]
    roles: dict[str, str]

    @cached_property
    def first_slot(self) -> tuple[int, ...]:
        """First slot of every run, then the number of slots."""
        return tuple(accumulate((self.layers[run.layer].operators for run in self.plan.runs), initial=0))

    @property
    def slots(self) -> int:
        """Number of slots of a step."""
        return self.first_slot[-1]

    @cached_property
    def is_repeat(self) -> tuple[bool, ...]:
        """For each run whether its layer has run before: a recomputation."""
        first = {run.layer: i for i, run in reversed(list(enumerate(self.plan.runs)))}
        return tuple(first[run.layer] != i for i, run in enumerate(self.plan.runs))

    def run_at(self, slot: int) -> int:
        """The run that executes `slot`; the last one for the end of the step."""
        return self._run_of_slot[slot] if slot < self.slots else len(self.plan.runs) - 1

    @cached_property
    def _run_of_slot(self) -> list[int]:
        return [run for run, (begin, end) in enumerate(pairwise(self.first_slot)) for _ in range(begin, end)]

    def layer(self, run: int) -> LayerInfo:
        """The layer of a run."""
        return self.layers[self.plan.runs[run].layer]

    def title(self, run: int) -> str:
        """How people call a run: `layer1.0.conv1 forward`, `layer1.0.conv1 recompute`."""
        layer = self.layer(run)
        return f"{layer.name} {'recompute' if self.is_repeat[run] else layer.phase}"

    def slot_ns(self, slot: int) -> int:
        """Predicted start of a slot; a run's operators share its time equally."""
        if slot >= self.slots:
            return self.plan.prediction.step_ns
        run = self.run_at(slot)
        start, end = self.plan.prediction.runs[run]
        return start + (end - start) * (slot - self.first_slot[run]) // self.layer(run).operators

    @cached_property
    def residencies(self) -> tuple[ResidencyView, ...]:
        """Every residency of the plan, in the plan's order."""
        resolver = _Resolver(self)
        return tuple(map(resolver.residency, range(len(self.plan.residencies))))

    @cached_property
    def scratch(self) -> tuple[ResidencyView, ...]:
        """The scratch of every segment that has some inside the slab, numbered on after the residencies."""
        found: list[ResidencyView] = []
        for region, (first, end) in zip(self.plan.scratch, self.plan.segments, strict=False):
            if region.bytes:
                begin, stop = self.first_slot[first], self.first_slot[end]
                times = self.slot_ns(begin), self.plan.prediction.runs[end - 1][1]
                index = len(self.plan.residencies) + len(found)
                found.append(
                    ResidencyView(
                        index, "operator scratch", region.offset, region.bytes, begin, stop, *times,
                        Content.SCRATCH, None, None, (), None,
                    )
                )  # fmt: skip
        return tuple(found)

    @cached_property
    def movements(self) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
        """For each residency the copy that brings it in and the copies that take it out, where there are any."""
        brought: dict[int, int] = {}
        taken: defaultdict[int, tuple[int, ...]] = defaultdict(tuple)
        for index, copy in enumerate(self.plan.copies):
            if copy.direction is Direction.IN:
                brought[copy.residency] = index
            else:
                taken[copy.residency] += (index,)
        return brought, dict(taken)

    @cached_property
    def takeovers(self) -> dict[int, int]:
        """For each residency whose bytes another gets before its end, that other one.

        Both have the same offset and bytes, or the other is that of a Concat around its inputs. Of two that begin at
        once, one made by an operator follows one brought in.
        """
        residencies, (brought, _) = self.plan.residencies, self.movements
        places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, residency in enumerate(residencies):
            places[residency.offset, residency.bytes].append(index)
        found: dict[int, int] = {}
        for indices in places.values():
            indices.sort(key=lambda i: (residencies[i].begin, i not in brought))
            found |= {a: b for a, b in pairwise(indices) if residencies[b].begin < residencies[a].end}
        ending: defaultdict[int, list[int]] = defaultdict(list)
        for index, residency in enumerate(residencies):
            ending[residency.end].append(index)
        for later, whole in enumerate(residencies):
            for index in ending[whole.begin + 1]:
                residency = residencies[index]
                inside = (
                    whole.offset <= residency.offset
                    and residency.offset + residency.bytes <= whole.offset + whole.bytes
                )
                if inside and residency.begin < whole.begin:
                    found.setdefault(index, later)
        return found

    @cached_property
    def makers(self) -> dict[str, int]:
        """For each computed storage the first run that makes it."""
        found: dict[str, int] = {}
        for residency in sorted(self.residencies, key=lambda s: s.begin):
            if residency.maker is not None:
                found.setdefault(residency.storage, residency.maker)
        return found

    @cached_property
    def contents(self) -> dict[str, Content]:
        """Content of every storage that some residency does not lose within the run that makes it."""
        found = {name: _CONTENT_OF_ROLE[Role(role)] for name, role in self.roles.items()}
        for residency in self.plan.residencies:
            run = self.run_at(residency.begin)
            if residency.storage not in found and residency.end > self.first_slot[run + 1]:
                forward = self.layer(run).phase == "forward"
                found[residency.storage] = Content.SAVED if forward else Content.GRADIENT
        return found


class _Resolver:
    """Makes the view of one residency."""

    def __init__(self, view: PlanView) -> None:
        self.view, self.prediction = view, view.plan.prediction
        self.brought, self.taken = view.movements
        self.takes_over = {later: index for index, later in view.takeovers.items()}

    def residency(self, index: int) -> ResidencyView:
        view, residency = self.view, self.view.plan.residencies[index]
        takeover = view.takeovers.get(index)
        produced = self._produced(index)
        run = view.run_at(residency.begin)
        within = produced and residency.end <= view.first_slot[run + 1]
        return ResidencyView(
            index=index,
            storage=residency.storage,
            offset=residency.offset,
            bytes=residency.bytes,
            begin=residency.begin,
            end=residency.end if takeover is None else view.plan.residencies[takeover].begin,
            begin_ns=self._begin_ns(index),
            end_ns=self._end_ns(index) if takeover is None else self._begin_ns(takeover),
            content=Content.TEMPORARY if within else view.contents.get(residency.storage, Content.TEMPORARY),
            maker=run if produced else None,
            brought_by=self.brought.get(index),
            copied_out_by=self.taken.get(index, ()),
            taken_over_by=takeover,
        )

    def _produced(self, index: int) -> bool:
        return self.view.plan.residencies[index].storage not in self.view.roles and index not in self.brought

    def _begin_ns(self, index: int) -> int:
        """A copy in may start while compute still waits to execute the slot at which it claims its bytes; it claims
        them later where they are still being copied out."""
        begin = self.view.plan.residencies[index].begin
        start = self.view.slot_ns(begin)
        if index in self.brought:
            start = min(start, self.prediction.copies[self.brought[index]][0])
            return max([start, *self._copied_out_ns(self.takes_over.get(index))])
        return start if self._produced(index) or begin else 0

    def _end_ns(self, index: int) -> int:
        """Bytes free at a run's first slot are free when the run before it ends, or when they have been copied out."""
        view, end = self.view, self.view.plan.residencies[index].end
        run = view.run_at(end)
        if end < view.slots and view.first_slot[run] == end and run:
            return max([self.prediction.runs[run - 1][1], *self._copied_out_ns(index)])
        return view.slot_ns(end)

    def _copied_out_ns(self, index: int | None) -> list[int]:
        """When the copies out of a residency end."""
        return [] if index is None else [self.prediction.copies[copy][1] for copy in self.taken.get(index, ())]


def view_of(plan: Plan, graph: Graph | None = None) -> PlanView:
    """Resolve `plan` with the names it carries, or with those of its graph.

    Raises PlanError when the graph is another model's, when neither names the layers, or when the plan refers to
    nothing.
    """
    if graph is not None and graph.content_hash != plan.model.hash:
        text = f"the plan was made for model {plan.model.hash[:12]} ({plan.model.file}), not for"
        raise PlanError(f"{text} {graph.content_hash[:12]}: give that model, or compile this one")
    if graph is None and not plan.layers:
        raise PlanError("the plan does not name its layers: give its model with --model, or compile it again")
    layers, roles = plan.layers, plan.inputs
    if graph is not None:
        layers = tuple(LayerInfo(x.name, x.kind, x.phase, x.stop - x.start) for x in graph.layers)
        roles = input_roles(graph)
    require_readable(plan, layers, roles)
    return PlanView(plan, layers, roles)
