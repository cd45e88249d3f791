"""A problem seen as a training step: where its backward pass begins, what waits for it, and what kinds of layers it
has.

The policies of the literature speak of a forward and a backward pass and of layer types. Both come from the tasks'
labels; a bare instance without labels is split where keeping everything needs most.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from planc.errors import PolicyScopeError
from planc.problem.problem import Origin, Problem
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule

CONVOLUTIONS = frozenset({"conv", "conv-transpose", "convtranspose"})
"""Kinds of the layers that vDNN and SuperNeurons single out."""

PRODUCTS = CONVOLUTIONS | frozenset({"linear", "fc", "gemm", "matmul", "einsum", "attention", "embedding", "gather"})
"""Kinds of the layers that are compute-intensive, so that recomputing policies keep their results. The papers name
convolutions and fully connected layers; attention and embeddings, which they did not have, are such as well."""

ACTIVATIONS = frozenset({"relu"})
"""Kinds that Caffe's network definitions run in place."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A value that waits for the backward pass: tasks that use it last before and first in it."""

    value: int
    last: int
    need: int


def backward_start(problem: Problem) -> int:
    """The first task of the backward pass: the first so labelled, else the one after the peak of keeping everything."""
    for index, task in enumerate(problem.tasks):
        if task.phase == "backward":
            return index
    if any(task.phase for task in problem.tasks):
        return len(problem.tasks)
    return min(turning_point(problem) + 1, len(problem.tasks))


def turning_point(problem: Problem) -> int:
    """The task at which keeping everything needs most: in a training step, where the backward pass takes over."""
    profile = memory_profile(problem, Schedule(tuple(range(len(problem.tasks)))))
    return max(range(len(profile)), key=profile.__getitem__)


def saved_values(problem: Problem, start: int) -> tuple[Saved, ...]:
    """Computed values made before the task `start` and read from there on, in the order in which they are made."""
    found = []
    for value, producer in enumerate(problem.producer):
        if producer is None or producer >= start:
            continue
        readers = problem.readers[value]
        after = [task for task in readers if task >= start]
        if after:
            found.append(Saved(value, max([producer, *(task for task in readers if task < start)]), after[0]))
    return tuple(sorted(found, key=lambda s: (problem.producer[s.value] or 0, s.value)))


def made_by(problem: Problem, value: int, kinds: Iterable[str]) -> bool:
    """Whether a layer of one of the `kinds` computes the value."""
    producer = problem.producer[value]
    return producer is not None and problem.tasks[producer].kind in kinds


def require_kinds(problem: Problem, name: str) -> None:
    """Raise PolicyScopeError when the layers have no kinds, on which the policy `name` decides."""
    if not any(task.kind for task in problem.tasks):
        raise PolicyScopeError(
            f"{name} decides by the kinds of layers (convolution, activation, …), which this problem does not have: "
            "compile a training graph with it, or choose a policy without kinds, such as sqrt-n or mip"
        )


def deadlines(problem: Problem) -> tuple[int, ...]:
    """For each task the first one before which alone it may run again: that one updates state which it reads."""
    never = len(problem.tasks)
    found = [never] * never
    for task, accessed in enumerate(problem.accesses):
        mutators = (problem.mutator[value] for value in accessed if problem.values[value].origin is Origin.STATE)
        found[task] = min((m for m in mutators if m is not None and m > task), default=never)
    return tuple(found)
