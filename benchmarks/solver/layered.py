"""Random layered graphs with the statistics of MOCCASIN's published ones (Bartan et al. 2023).

Of those, 86 % of the edges go to the next layer and the rest skip layers; costs are uniform, output sizes exponential;
one source feeds the first layer and one sink collects what nothing else reads.
"""

import heapq
import random

from planc.problem.problem import Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule


def random_layered(nodes: int, fraction: float, seed: int = 0, edges: int | None = None) -> Problem:
    """A recompute-only problem of `nodes` tasks at a fraction of its order's peak; 5.9 edges a node by default."""
    rng = random.Random(seed)
    parents, level = _graph(rng, nodes, edges or round(5.9 * nodes))
    order = _order(rng, parents, level)
    position = {node: index for index, node in enumerate(order)}
    values = tuple(Value(str(node), 10 * max(1, round(rng.expovariate(1 / 190)))) for node in order)
    tasks = tuple(
        Task(
            str(node), 1000 * rng.randint(1, 1000), tuple(sorted(position[p] for p in parents[node])),
            (index,), values[index].bytes, recomputable=True,
        )
        for index, node in enumerate(order)
    )  # fmt: skip
    whole = Problem(tasks, values, 1 << 62)
    peak = max(memory_profile(whole, Schedule(tuple(range(nodes)))))
    return Problem(tasks, values, int(peak * fraction))


def _graph(rng: random.Random, nodes: int, edges: int) -> tuple[list[set[int]], list[int]]:
    """Parents and layer of each node; node 0 is the source, the last one the sink."""
    width = max(2, round(nodes**0.5 * 0.7))
    layers: list[list[int]] = [[0]]
    while (made := sum(map(len, layers))) < nodes - 1:
        size = min(rng.randint(1, 2 * width), nodes - 1 - made)
        layers.append(list(range(made, made + size)))
    level = [index for index, layer in enumerate(layers) for _ in layer]
    parents: list[set[int]] = [set() for _ in range(nodes)]
    for index, layer in enumerate(layers[1:], start=1):
        for node in layer:
            parents[node].add(rng.choice(layers[index - 1]))
    while sum(map(len, parents)) < edges:
        node = rng.randrange(1, nodes - 1)
        back = 1 if rng.random() < 0.86 else 1 + round(rng.expovariate(1 / 5))
        parents[node].add(rng.choice(layers[max(0, level[node] - back)]))
    read = set().union(*parents)
    parents[nodes - 1] = {node for node in range(nodes - 1) if node not in read}
    return parents, [*level, len(layers)]


def _order(rng: random.Random, parents: list[set[int]], level: list[int]) -> list[int]:
    """A topological order that prefers low layers, with some disorder."""
    waiting = [len(found) for found in parents]
    children: list[list[int]] = [[] for _ in parents]
    for node, found in enumerate(parents):
        for parent in found:
            children[parent].append(node)
    ready = [(0.0, 0)]
    order = []
    while ready:
        node = heapq.heappop(ready)[1]
        order.append(node)
        for child in children[node]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (level[child] + 2 * rng.random(), child))
    return order
