"""The verifier's clocks against reachability: what comes before what, by every path of the edges that the plan's document
names."""

import itertools
import random

import msgspec
import networkx as nx
import pytest
from support import networks
from support.plans import random_plan

from planc.enums import Direction
from planc.plan.plan import Copy, Plan, Run
from planc.verifier.clocks import happens_before

_RUNS, _COPIES = 4, 5


def _random(seed: int) -> Plan:
    """A plan of which only runs, copies and waits count; waits may go round in a circle."""
    rng = random.Random(seed)

    def waits(known: int) -> tuple[int, ...]:
        """Mostly for copies below `known`, which cannot go round."""
        among = range(_COPIES if rng.random() < 0.1 else known)
        return tuple(rng.sample(among, min(len(among), rng.choice((0, 0, 1, 2)))))

    afters = sorted(rng.randint(0, _RUNS) for _ in range(_COPIES))
    copies = tuple(
        Copy(
            direction=rng.choice(list(Direction)), residency=0, host_offset=0, bytes=0, after=after, waits=waits(index)
        )
        for index, after in enumerate(afters)
    )
    runs = tuple(Run(0, waits(sum(after <= run for after in afters))) for run in range(_RUNS))
    return msgspec.structs.replace(random_plan(networks.mlp(), 0), runs=runs, copies=copies)


def _edges(plan: Plan) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(("run", i) for i in range(len(plan.runs)))
    graph.add_edges_from(itertools.pairwise(list(graph)))
    for direction in Direction:
        engine = [("copy", i) for i, copy in enumerate(plan.copies) if copy.direction is direction]
        graph.add_nodes_from(engine)
        graph.add_edges_from(itertools.pairwise(engine))
    for index, copy in enumerate(plan.copies):
        graph.add_edges_from((("copy", other), ("copy", index)) for other in copy.waits)
        graph.add_edges_from((("run", run), ("copy", index)) for run in range(copy.after))
    for index, run in enumerate(plan.runs):
        graph.add_edges_from((("copy", other), ("run", index)) for other in run.waits)
    return graph


@pytest.mark.parametrize("first", range(0, 180, 60))
def test_clocks_tell_what_every_path_tells(first: int) -> None:
    stuck_plans = 0
    for seed in range(first, first + 60):
        plan = _random(seed)
        graph, order = _edges(plan), happens_before(plan)
        circles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
        circles += [{node} for node in nx.nodes_with_selfloops(graph)]
        stuck = set().union(*({node} | nx.descendants(graph, node) for circle in circles for node in circle))
        runs = sorted(i for kind, i in stuck if kind == "run")[:1]
        named = [f"run {i}" for i in runs] + [f"copy {i}" for i in sorted(i for kind, i in stuck if kind == "copy")]
        assert list(order.deadlocked) == named, seed
        stuck_plans += bool(stuck)
        if stuck:
            continue
        before = {node: nx.ancestors(graph, node) for node in graph}
        for copy, run in itertools.product(range(_COPIES), range(_RUNS)):
            assert order.copy_before_run(copy, run) == (("copy", copy) in before["run", run]), seed
            assert order.run_before_copy(run, copy) == (("run", run) in before["copy", copy]), seed
        for one, other in itertools.permutations(range(_COPIES), 2):
            assert order.copy_before_copy(one, other) == (("copy", one) in before["copy", other]), seed
    assert 5 < stuck_plans < 50  # so that both kinds are there
