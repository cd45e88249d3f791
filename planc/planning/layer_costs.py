"""What a layer's results cost to move and to make again, layer by layer and by kind of layer.

For each layer of the forward pass: its time and that of its backward pass, what its results take to the host and back, and,
of what it leaves for the backward pass, the bytes, their copies, and what it takes to make them again from what else is
saved, chains of results that are not saved included. Of the two copies, which run on engines of their own, the longer one
is held against computation.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from planc.problem.problem import Problem
from planc.problem.remaking import makers


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer, or all `layers` of a kind, whose `name` is empty. Times in ns.

    `out_ns` and `in_ns` are the copies of all results, `saved_ns` the longer copies of those that are saved. `remake_ns`
    is None where nothing is saved or a result cannot be made again (random layers, updated state).
    """

    name: str
    kind: str
    layers: int
    forward_ns: int
    backward_ns: int
    output_bytes: int
    out_ns: int
    in_ns: int
    saved_bytes: int
    saved_ns: int
    remake_ns: int | None

    @property
    def ratio(self) -> float | None:
        """Extra forward computation in times of the transfer of the results; None where there are none to move."""
        transfer = max(self.out_ns, self.in_ns)
        return self.forward_ns / transfer if transfer else None

    @property
    def cheaper(self) -> str:
        """`transfer` or `recompute`, whichever takes less for what is saved; empty where nothing is."""
        if not self.saved_bytes:
            return ""
        return "transfer" if self.remake_ns is None or self.saved_ns <= self.remake_ns else "recompute"

    @property
    def factor(self) -> float | None:
        """By how much it is cheaper; None where there is no choice."""
        if not self.remake_ns or not self.saved_ns:
            return None
        return max(self.remake_ns / self.saved_ns, self.saved_ns / self.remake_ns)


def layer_reports(problem: Problem) -> tuple[LayerReport, ...]:
    """A report for each layer of the forward pass, in order."""
    backward: defaultdict[str, int] = defaultdict(int)
    first = next((t for t, info in enumerate(problem.tasks) if info.phase == "backward"), len(problem.tasks))
    for info in problem.tasks[first:]:
        if info.phase == "backward":
            backward[_layer(info.name, info.phase)] += info.duration_ns
    saved = {
        v
        for v, p in enumerate(problem.producer)
        if p is not None and p < first and any(r >= first for r in problem.readers[v])
    }
    made = {v for v, p in enumerate(problem.producer) if p is not None and p < first}
    found = []
    for task, info in enumerate(problem.tasks[:first]):
        if info.phase not in ("forward", ""):
            continue
        found.append(_report(problem, task, saved, made - saved, backward[_layer(info.name, info.phase)]))
    return tuple(found)


def by_kind(reports: Iterable[LayerReport]) -> tuple[LayerReport, ...]:
    """One report for each kind of layer, the slowest first: sums over its layers.

    Where some of a kind cannot be made again, what is saved counts of the others only, so that the sums compare.
    """
    groups: defaultdict[str, list[LayerReport]] = defaultdict(list)
    for report in reports:
        groups[report.kind].append(report)
    found = [_joined(kind, some) for kind, some in groups.items()]
    return tuple(sorted(found, key=lambda report: -report.forward_ns))


def mean_ratio(reports: Iterable[LayerReport], kinds: Iterable[str]) -> float | None:
    """The mean over layers of these kinds of `ratio`; None where no layer has one."""
    chosen = set(kinds)
    ratios = [r.ratio for r in reports if r.kind in chosen and r.ratio is not None]
    return sum(ratios) / len(ratios) if ratios else None


def _report(problem: Problem, task: int, saved: set[int], hidden: set[int], backward_ns: int) -> LayerReport:
    info = problem.tasks[task]
    results = [problem.values[v] for v in info.writes]
    kept = [problem.values[v] for v in info.writes if v in saved]
    return LayerReport(
        name=_layer(info.name, info.phase),
        kind=info.kind,
        layers=1,
        forward_ns=info.duration_ns,
        backward_ns=backward_ns,
        output_bytes=sum(v.bytes for v in results),
        out_ns=sum(v.copy_out_ns for v in results),
        in_ns=sum(v.copy_in_ns for v in results),
        saved_bytes=sum(v.bytes for v in kept),
        saved_ns=max(sum(v.copy_out_ns for v in kept), sum(v.copy_in_ns for v in kept)),
        remake_ns=_remake_ns(problem, task, frozenset(hidden)) if kept else None,
    )


def _joined(kind: str, some: list[LayerReport]) -> LayerReport:
    saving = [r for r in some if r.saved_bytes]
    again = [r for r in saving if r.remake_ns is not None]
    counted = again or saving
    return LayerReport(
        name="",
        kind=kind,
        layers=len(some),
        forward_ns=sum(r.forward_ns for r in some),
        backward_ns=sum(r.backward_ns for r in some),
        output_bytes=sum(r.output_bytes for r in some),
        out_ns=sum(r.out_ns for r in some),
        in_ns=sum(r.in_ns for r in some),
        saved_bytes=sum(r.saved_bytes for r in counted),
        saved_ns=sum(r.saved_ns for r in counted),
        remake_ns=sum(r.remake_ns or 0 for r in again) if again else None,
    )


def _remake_ns(problem: Problem, task: int, hidden: frozenset[int]) -> int | None:
    """Time to run the task again, behind what makes those of its inputs that are `hidden`: not saved."""
    dropped = hidden | frozenset(problem.tasks[task].writes)
    tasks = makers(problem, problem.tasks[task].writes, dropped)
    if not all(problem.tasks[t].recomputable for t in tasks):
        return None
    return sum(problem.tasks[t].duration_ns for t in tasks)


def _layer(name: str, phase: str) -> str:
    return name.removesuffix(f" {phase}")
