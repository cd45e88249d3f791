"""vDNN, Layrub and Caffe by their rules, stated on a chain of five layers: what leaves, when, and what allocators take."""

from dataclasses import replace

import pytest
from support.labelled import Layer, training_chain

from planc.enums import Direction
from planc.errors import InfeasibleBudgetError, PolicyScopeError
from planc.problem.problem import Alternative, Problem
from planc.schedule.schedule import Schedule, Transfer
from planc.schedule.solver import SolveOptions, load_solver, solve
from planc_solvers.baselines.allocators import BestFitPool, pool_bytes, shared_buffer_bytes

# Tasks 0…4 are the forward pass, 5…9 the backward pass of layers 4…0. Value 0 is the image, value i + 1 is y{i}.
CHAIN = training_chain(
    [
        Layer("conv", 100, 40),
        Layer("relu", 100, 4, saves="output"),
        Layer("conv", 60, 50),
        Layer("relu", 60, 3, saves="output"),
        Layer("linear", 10, 20),
    ],
    image=30,
)
IMAGE, Y0, Y1, Y2, Y3 = range(5)


def _copies(name: str, problem: Problem) -> dict[int, list[tuple[str, int, int]]]:
    schedule = solve(load_solver(name), problem, SolveOptions()).schedule
    found: dict[int, list[tuple[str, int, int]]] = {}
    for copy in schedule.copies:
        found.setdefault(copy.value, []).append((copy.direction.value, copy.start, copy.stop))
    return found


def test_vdnn_all_offloads_every_saved_map_beside_its_last_forward_reader_and_fetches_it_one_layer_early() -> None:
    # y1 is read last by layer 2 (task 2) and needed first by the backward pass of layer 2 (task 7); y3 by tasks 4 and 5,
    # between which nothing runs; the image by tasks 0 and 9, and the host has it.
    assert _copies("vdnn-all", CHAIN) == {IMAGE: [("in", 8, 9)], Y1: [("out", 2, 3), ("in", 6, 7)]}


def test_a_parameter_update_is_no_layer_for_the_prefetch() -> None:
    update = replace(CHAIN.tasks[6], name="l3 update", phase="update", reads=(), writes=())
    tasks = (*CHAIN.tasks[:7], update, *CHAIN.tasks[7:])
    assert _copies("vdnn-all", replace(CHAIN, tasks=tasks))[Y1] == [("out", 2, 3), ("in", 6, 8)]


def test_vdnn_conv_offloads_inputs_of_convolutions_only() -> None:
    chain = training_chain([Layer("conv", 9, 4), Layer("norm", 9, 4), Layer("pool", 9, 4), Layer("conv", 9, 4)] * 2)
    everything, some = _copies("vdnn-all", chain), _copies("vdnn-conv", chain)
    # Without an image value i is y{i}; convolutions 3, 4 and 7 read y2, y3 and y6; the last is needed at once.
    assert set(some) == {2, 3}
    assert set(everything) == {0, 1, 2, 3, 4, 5}
    assert some.items() <= everything.items()


def test_policies_by_kind_refuse_a_problem_without_kinds() -> None:
    bare = replace(CHAIN, tasks=tuple(replace(task, kind="") for task in CHAIN.tasks))
    for name in ("vdnn-conv", "vdnn-dyn", "superneurons", "layup"):
        with pytest.raises(PolicyScopeError, match=f"{name} decides by the kinds"):
            load_solver(name).solve(bare, SolveOptions())


def _with_forms(problem: Problem) -> Problem:
    """Convolutions also run with 50 bytes more in half the time, or with 20 bytes less in twice the time."""
    tasks = [
        replace(
            t,
            alternatives=(
                Alternative("fast", t.duration_ns // 2, t.working_bytes + 50),
                Alternative("lean", t.duration_ns * 2, t.working_bytes - 20),
            ),
        )
        if t.kind == "conv"
        else t
        for t in problem.tasks
    ]
    return replace(problem, tasks=tuple(tasks))


def test_vdnn_dyn_takes_the_first_configuration_that_fits() -> None:
    problem = _with_forms(
        training_chain([Layer("conv", 100, 40), Layer("norm", 100, 4)] * 3 + [Layer("conv", 100, 40)])
    )
    seen = []
    for budget in range(900, 200, -10):
        try:
            schedule = load_solver("vdnn-dyn").solve(replace(problem, budget_bytes=budget), SolveOptions()).schedule
        except InfeasibleBudgetError:
            seen.append("none")
            continue
        offloaded = {c.value for c in schedule.copies}
        fast = all(
            c == 1 for t, c in zip(schedule.steps, schedule.choices, strict=True) if problem.tasks[t].kind == "conv"
        )
        seen.append(
            ("nothing" if not offloaded else "conv" if len(offloaded) <= 3 else "all") + (" fast" if fast else "")
        )
    order = ["nothing fast", "conv fast", "all fast", "conv", "all", "none"]
    assert [name for name, before in zip(seen, ["", *seen], strict=False) if name != before] == [
        name for name in order if name in seen
    ]
    assert {"nothing fast", "conv fast", "all fast", "all", "none"} <= set(seen)


def test_layrub_sends_every_saved_output_as_soon_as_it_is_made_and_waits_a_layer_longer() -> None:
    # y1 is made by task 1, read last by task 2: sent from 2, gone by 4; fetched beside task 6 for task 7.
    assert _copies("layrub", CHAIN) == {IMAGE: [("in", 8, 9)], Y1: [("out", 2, 4), ("in", 6, 7)]}


def test_layrub_waits_at_once_where_waiting_a_layer_longer_does_not_fit() -> None:
    chain = training_chain([Layer("conv", 100, 40)] * 8)
    hungry = replace(chain.tasks[3], working_bytes=500)
    chain = replace(chain, tasks=(*chain.tasks[:3], hungry, *chain.tasks[4:]))
    later = solve(load_solver("layrub"), chain, SolveOptions())
    tight = solve(load_solver("layrub"), replace(chain, budget_bytes=later.peak_bytes - 1), SolveOptions())
    stops = [{c.value: c.stop for c in s.schedule.engine(Direction.OUT)} for s in (later, tight)]
    assert all(stops[1][v] == stops[0][v] - 1 for v in stops[1])


def test_layrubs_buffers_are_as_large_as_the_largest_map() -> None:
    # Keeping all, at most y1, y3, y4 and a gradient (or two more maps) are there at once: the largest has 100 bytes.
    schedule = Schedule(tuple(range(10)))
    assert shared_buffer_bytes(CHAIN, schedule) == 30 + 100 * 4


def test_caffe_allocates_every_tensor_and_runs_activations_in_place() -> None:
    maps = 30 + 100 + 60 + 10  # y1 over y0 and y3 over y2
    gradients = 60 + 60 + 100 + 100 + 1  # g4 … g0; no one else reads what a ReLU's backward pass writes over
    in_place = 60 + 100  # g3 over g4, g1 over g2
    need = maps + gradients - in_place
    answer = load_solver("caffe").solve(replace(CHAIN, budget_bytes=need), SolveOptions())
    assert (answer.allocator_bytes, answer.schedule) == (need, Schedule(tuple(range(10))))
    with pytest.raises(InfeasibleBudgetError, match="caffe allocates") as caught:
        load_solver("caffe").solve(replace(CHAIN, budget_bytes=need - 1), SolveOptions())
    assert caught.value.minimum_budget_bytes == need


def test_a_best_fit_pool_takes_the_smallest_block_and_joins_neighbours() -> None:
    pool = BestFitPool()
    for key, size in enumerate((1024, 512, 2048, 512)):
        pool.take(key, size)
    assert pool.height == 4096
    pool.give(0)
    pool.give(2)
    pool.take(4, 1000)  # the block of 1,024, not that of 2,048
    pool.take(5, 2048)
    assert pool.height == 4096
    pool.give(4)
    pool.give(1)
    pool.take(6, 1536)  # blocks 0 and 1 joined
    assert pool.height == 4096
    pool.take(7, 512)
    assert pool.height == 4608


def test_a_pool_serves_a_schedule_in_its_order() -> None:
    assert pool_bytes(CHAIN, Schedule(tuple(range(10)))) >= 512 * 5
    copies = (Transfer(Y1, Direction.OUT, 2, 3), Transfer(Y1, Direction.IN, 6, 7))
    assert pool_bytes(CHAIN, Schedule(tuple(range(10)), copies)) <= pool_bytes(CHAIN, Schedule(tuple(range(10))))
