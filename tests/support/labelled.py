"""Small training steps with layer kinds, for policies that decide by them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planc.problem.problem import Origin, Problem, Task, Value
from support.problems import random_problem


@dataclass(frozen=True)
class Layer:
    """A layer of a chain: its kind, the bytes of its output, its forward time; its backward pass takes twice as long.

    `saves` says what its backward pass reads: its `input`, its `output`, `both`, or `nothing`.
    A `mask` of so many bytes is a second result that only its backward pass reads.
    """

    kind: str
    bytes: int
    ns: int
    saves: str = "input"
    mask: int = 0


def training_chain(layers: Sequence[Layer], image: int = 0, copy_ns: int = 1) -> Problem:
    """The step of a chain of layers, without parameters: values `y0` … of the forward pass, `g0` … of the backward one.

    Layer i makes `y{i}` from `y{i-1}`, layer 0 from the batch `image` where that has bytes.
    A byte takes `copy_ns` each way.
    """
    values: list[Value] = []

    def value(name: str, size: int, origin: Origin = Origin.COMPUTED) -> int:
        values.append(Value(name, size, origin, True, size * copy_ns, size * copy_ns))
        return len(values) - 1

    source = value("image", image, Origin.BATCH) if image else None
    tasks: list[Task] = []
    outputs: list[int] = []
    masks: list[tuple[int, ...]] = []
    for index, layer in enumerate(layers):
        reads = (outputs[-1],) if outputs else (source,) if source is not None else ()
        outputs.append(value(f"y{index}", layer.bytes))
        masks.append((value(f"m{index}", layer.mask),) if layer.mask else ())
        name = f"l{index} forward"
        made = (outputs[-1], *masks[-1])
        tasks.append(Task(name, layer.ns, reads, made, layer.bytes + layer.mask, True, (), layer.kind, "forward"))
    gradient: int | None = None
    for index in range(len(layers) - 1, -1, -1):
        layer = layers[index]
        before = outputs[index - 1] if index else source
        saved = {"input": (before,), "output": (outputs[index],), "both": (before, outputs[index])}.get(layer.saves, ())
        reads = tuple(v for v in (gradient, *saved, *masks[index]) if v is not None)
        into = value(f"g{index}", layers[index - 1].bytes if index else 1)
        name = f"l{index} backward"
        size = values[into].bytes
        tasks.append(Task(name, 2 * layer.ns, reads, (into,), size, False, (), layer.kind, "backward"))
        gradient = into
    return Problem(tuple(tasks), tuple(values), 1 << 40)


def names(problem: Problem, values: Sequence[int]) -> list[str]:
    """Names of values."""
    return [problem.values[v].name for v in values]


def labelled(seed: int, tasks: int = 12) -> Problem:
    """A random problem whose first half is the forward pass and whose tasks have kinds; the second half is not repeated."""
    rng, problem = random.Random(seed), random_problem(seed, tasks)
    kinds = ("conv", "relu", "pool", "linear", "norm")
    made = [
        replace(
            task,
            kind=rng.choice(kinds),
            phase="forward" if index < tasks // 2 else "backward",
            recomputable=task.recomputable and index < tasks // 2,
        )
        for index, task in enumerate(problem.tasks)
    ]
    return replace(problem, tasks=tuple(made))
