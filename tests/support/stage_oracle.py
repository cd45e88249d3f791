"""Brute force over Checkmate's schedules: between first executions, tasks run again in their order, each at most once."""

import heapq

from planc.problem.problem import Problem


def best_by_stages(problem: Problem, most_runs: int = 1 << 30) -> int | None:
    """Least total duration within the budget, each task run at most `most_runs` times; None if there is no schedule.

    Dijkstra over (stage, next task, values held, repeats so far); any held value may be dropped at any time. Computed
    values only.
    """
    tasks, size = problem.tasks, [v.bytes for v in problem.values]
    queue: list[tuple[int, int, tuple[int, int, frozenset[int], tuple[int, ...]]]] = [
        (0, 0, (0, 0, frozenset(), (0,) * len(tasks)))
    ]
    seen: set[tuple[int, int, frozenset[int], tuple[int, ...]]] = set()
    ticket = 0
    while queue:
        cost, _, state = heapq.heappop(queue)
        if state in seen:
            continue
        seen.add(state)
        stage, position, held, runs = state
        if stage == len(tasks):
            return cost
        following = [(cost, (stage, position, held - {v}, runs)) for v in held]
        if position < stage:
            following.append((cost, (stage, position + 1, held, runs)))
        info = tasks[position]
        again = position < stage
        may = not again or (info.recomputable and runs[position] + 1 < most_runs)
        if (
            may
            and held.issuperset(info.reads)
            and sum(size[v] for v in held) + info.working_bytes <= problem.budget_bytes
        ):
            after = held | frozenset(info.writes)
            counted = tuple(r + (again and i == position) for i, r in enumerate(runs)) if most_runs < 1 << 30 else runs
            place = (stage, position + 1) if again else (stage + 1, 0)
            following.append((cost + info.duration_ns, (*place, after, counted)))
        for price, reached in following:
            ticket += 1
            heapq.heappush(queue, (price, ticket, reached))
    return None
