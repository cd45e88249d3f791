"""SuperNeurons, Layup, √n, Capuchin, DTR and PyTorch's knapsack by their rules, stated on small chains."""

import itertools
from contextlib import suppress
from dataclasses import replace

import pytest
from support.labelled import Layer, training_chain

from planc.enums import Direction
from planc.errors import InfeasibleBudgetError
from planc.problem.problem import Alternative, Problem, Task, Value
from planc.schedule.residency import memory_profile
from planc.schedule.schedule import Schedule
from planc.schedule.solver import SolveOptions, load_solver, solve
from planc_solvers.baselines import capuchin
from planc_solvers.baselines.layup import recomputed_kinds
from planc_solvers.baselines.pytorch_knapsack import kept_values


def _steps(name: str, problem: Problem, budget: int | None = None) -> str:
    """The steps by letter: `0` … the forward pass, `a` … the backward pass of layers 0 …"""
    if budget is not None:
        problem = replace(problem, budget_bytes=budget)
    schedule = solve(load_solver(name), problem, SolveOptions()).schedule
    layers = len(problem.tasks) // 2
    return "".join(str(t) if t < layers else chr(ord("a") + 2 * layers - 1 - t) for t in schedule.steps)


def _keep_peak(problem: Problem) -> int:
    return max(memory_profile(problem, Schedule(tuple(range(len(problem.tasks))))))


CHEAP = [Layer("relu", 50, 1), Layer("pool", 50, 1), Layer("norm", 50, 1)]


def test_superneurons_makes_a_small_segment_again_once_and_a_large_one_for_each_layer() -> None:
    conv = Layer("conv", 50, 100)
    # Layers: conv 0, cheap 1 2 3, conv 4. The backward pass of 4 reads y3, of 3 y2, of 2 y1: results of the segment 1 2 3.
    chain = training_chain([conv, *CHEAP, conv])
    wide = replace(chain.tasks[4], working_bytes=200)  # l_peak = 250 ≥ 150: speed-centric
    speed = replace(chain, tasks=(*chain.tasks[:4], wide, *chain.tasks[5:]))
    assert _recomputing(speed) == "01234123edcba"
    # l_peak is 50 + 50 + 50 + 50: a segment of 4 x 60 is larger
    large = training_chain([conv, *(Layer(k, 60, 1) for k in ("relu", "pool", "norm", "relu")), conv])
    assert _recomputing(large) == "0123451234f123e12d1cba"


def _recomputing(problem: Problem) -> str:
    """Steps at the largest budget below which SuperNeurons recomputes: without swaps, evictions cannot help before."""
    fixed = replace(problem, values=tuple(replace(v, swappable=False) for v in problem.values))
    return _steps("superneurons", fixed, _keep_peak(fixed) - 1)


def test_superneurons_evicts_the_checkpoint_used_least_recently_and_no_more_than_it_must() -> None:
    chain = training_chain([Layer("conv", 100, 10)] * 6)
    peak = _keep_peak(chain)
    for missing, expected in ((1, [0]), (100, [0]), (101, [0, 1]), (200, [0, 1])):
        schedule = solve(
            load_solver("superneurons"), replace(chain, budget_bytes=peak - missing), SolveOptions()
        ).schedule
        assert [c.value for c in schedule.engine(Direction.OUT)] == expected
        assert schedule.steps == tuple(range(12))
    fetches = {c.value: (c.start, c.stop) for c in schedule.engine(Direction.IN)}
    assert fetches == {0: (9, 10), 1: (8, 9)}  # one layer before the backward pass of the layer above


def test_superneurons_runs_each_step_in_the_fastest_form_that_fits_what_is_free() -> None:
    chain = training_chain([Layer("conv", 100, 10)] * 4)
    forms = (Alternative("fast", 4, 250), Alternative("faster", 3, 350))
    tasks = tuple(replace(t, alternatives=forms) for t in chain.tasks)
    budget = 450
    schedule = solve(
        load_solver("superneurons"), replace(chain, tasks=tasks, budget_bytes=budget), SolveOptions()
    ).schedule
    held = [need - 100 for need in memory_profile(chain, replace(schedule, choices=()))]
    held[-1] += 99  # the last gradient has one byte
    assert list(schedule.choices) == [2 if h <= 100 else 1 if h <= 200 else 0 for h in held]


def test_layup_recomputes_the_kinds_whose_forward_pass_is_faster_than_their_transfer() -> None:
    layers = [Layer("conv", 100, 900), Layer("relu", 100, 30), Layer("pool", 40, 100), Layer("conv", 40, 700)]
    chain = training_chain([*layers, Layer("relu", 40, 30), Layer("linear", 4, 50)], copy_ns=2)
    # conv: 900 + 700 against 2 (100 + 40); relu: 60 against 280; pool: 100 against 80; linear saves nothing
    assert recomputed_kinds(chain) == {"relu"}
    schedule = solve(load_solver("layup"), chain, SolveOptions()).schedule
    assert {c.value for c in schedule.engine(Direction.OUT)} == {0, 2, 3}
    assert _steps("layup", chain) == "0123454fed1cba"


def test_layup_decides_by_the_mean_of_a_kinds_layers_however_much_the_large_ones_make() -> None:
    layers = [Layer("conv", 1000, 100), Layer("conv", 1000, 100), Layer("conv", 10, 40), Layer("relu", 10, 1)]
    # 0.1, 0.1 and 4 on average are more than 1; by sums 240 would be less than 2010.
    assert recomputed_kinds(training_chain(layers)) == set()


def test_layup_transfers_convolutions_where_recomputing_all_from_the_start_does_not_fit() -> None:
    chain = training_chain([Layer("conv", 100, 10), Layer("relu", 100, 1)] * 4, copy_ns=5)
    assert recomputed_kinds(chain) == {"conv", "relu"}
    roomy, tight = chain, replace(chain, budget_bytes=_keep_peak(chain) - 100)
    assert not solve(load_solver("layup"), roomy, SolveOptions()).schedule.copies
    schedule = solve(load_solver("layup"), tight, SolveOptions()).schedule
    assert {chain.tasks[chain.producer[c.value] or 0].kind for c in schedule.copies} == {"conv"}


def test_layup_transfers_residual_sums_where_recomputing_them_does_not_fit() -> None:
    # Conv 2k makes value 2k of the sum before, relu 2k + 1 sums both into value 2k + 1; each layer's backward pass reads
    # what the layer before made, and the gradient before its own.
    blocks = 4
    count = 2 * blocks
    kinds = ["conv", "relu"] * blocks
    reads = [tuple(range(max(0, i - 1 - i % 2), i)) for i in range(count)]
    forward = [
        Task(f"{i} forward", (100, 1)[i % 2], reads[i], (i,), 100, True, (), kinds[i], "forward") for i in range(count)
    ]
    backward = [
        Task(f"{i} backward", 50, (max(i - 1, 0), g - 1), (g,), 100, False, (), kinds[i], "backward")
        for i, g in zip(reversed(range(count)), range(count, 2 * count), strict=True)
    ]
    values = tuple(Value(f"v{i}", 100, swappable=True, copy_out_ns=20, copy_in_ns=20) for i in range(2 * count))
    chain = Problem((*forward, *backward), values, 1 << 40)
    assert recomputed_kinds(chain) == {"relu"}
    sums = set(range(1, count, 2))
    roomy = solve(load_solver("layup"), chain, SolveOptions())
    assert not sums & {c.value for c in roomy.schedule.copies}
    tight = solve(load_solver("layup"), replace(chain, budget_bytes=roomy.peak_bytes - 1), SolveOptions())
    assert sums & {c.value for c in tight.schedule.copies}


def test_sqrt_n_keeps_what_segments_read_of_each_other_and_makes_the_rest_of_a_segment_again() -> None:
    chain = training_chain([Layer("conv", 10, 5)] * 9)
    # Segments 012, 345, 678: y2 and y5 stay. The backward pass of 8 wants y7, of 5 y4, of 2 y1.
    assert _steps("sqrt-n", chain) == "01234567867ihg34fed01cba"


def test_statistics_that_an_update_reads_are_not_made_again_for_it() -> None:
    chain = training_chain([Layer("conv", 100, 50, mask=1)] * 4)
    statistics = tuple(i for i, value in enumerate(chain.values) if value.name.startswith("m"))
    joined = replace(chain.tasks[-1], name="update", phase="update", reads=statistics, writes=())
    # In place of the masks' own readers, one update right behind the forward pass reads them all.
    readers = [replace(t, reads=tuple(v for v in t.reads if v not in statistics)) for t in chain.tasks[4:]]
    tasks = (*chain.tasks[:4], readers[0], joined, *readers[1:])
    steps = solve(load_solver("sqrt-n"), replace(chain, tasks=tasks), SolveOptions()).schedule.steps
    assert steps[steps.index(5) - 1] == 4
    assert len(steps) > len(tasks)


def test_capuchin_swaps_what_has_time_to_travel_and_recomputes_what_is_cheap() -> None:
    layers = [Layer("conv", 100, 400), Layer("relu", 100, 10), Layer("conv", 1, 300)]
    chain = training_chain([*layers, *[Layer("conv", 1, 300, saves="nothing")] * 5])
    hungry = replace(chain.tasks[8], working_bytes=400)
    chain = replace(chain, tasks=(*chain.tasks[:8], hungry, *chain.tasks[9:]))
    # y0 and y1 wait for the backward passes of l1 and l2: for thousands of ns, 200 of which they travel.
    peak = _keep_peak(chain)
    swapped = solve(load_solver("capuchin"), replace(chain, budget_bytes=peak - 50), SolveOptions()).schedule
    assert swapped.steps == tuple(range(16))
    assert {c.value for c in swapped.copies} == {0}  # it has the most free time
    stuck = replace(chain, values=tuple(replace(v, copy_out_ns=10**6, copy_in_ns=10**6) for v in chain.values))
    again = solve(load_solver("capuchin"), replace(stuck, budget_bytes=peak - 50), SolveOptions()).schedule
    assert not again.copies
    assert sorted(again.steps) == sorted([*range(16), 1])  # y1, in 10 ns, not the convolution's y0


def test_capuchins_copies_in_follow_each_other_and_end_before_their_need() -> None:
    chain = training_chain([Layer("conv", 100, 50)] * 8)
    schedule = solve(
        load_solver("capuchin"), replace(chain, budget_bytes=_keep_peak(chain) // 2), SolveOptions()
    ).schedule
    ins = schedule.engine(Direction.IN)
    assert ins
    ends = [100 * (c.stop - 8) for c in ins]  # a task of the backward pass lasts 100, a copy as well
    starts = [min(end, *[e - 100 * (k - i) for k, e in enumerate(ends) if k >= i]) - 100 for i, end in enumerate(ends)]
    assert all(100 * (c.start - 8) <= max(start, 0) or c.start <= 8 for c, start in zip(ins, starts, strict=True))


def test_capuchin_awaits_copies_out_only_when_memory_runs_out() -> None:
    chain = training_chain([Layer("conv", 100, 50)] * 8)
    tight = replace(chain, budget_bytes=_keep_peak(chain) // 2)
    schedule = solve(load_solver("capuchin"), tight, SolveOptions()).schedule
    through, early = 0, 0
    for copy in schedule.engine(Direction.OUT):
        through = max(through, 50 * copy.start) + 100
        if 50 * copy.stop < through:
            later = tuple(replace(c, stop=c.stop + 1) if c == copy else c for c in schedule.copies)
            assert max(memory_profile(tight, replace(schedule, copies=later))) > tight.budget_bytes
            early += 1
    assert early


def test_capuchin_decides_once_for_each_way_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = training_chain([Layer("relu", 100, 50)] * 40, copy_ns=10)
    tight = replace(chain, budget_bytes=600)  # a layer alone takes 300
    made: list[int] = []
    plan = capuchin._schedule
    monkeypatch.setattr(capuchin, "_schedule", lambda *given: made.append(1) or plan(*given))
    counts = []
    for limit in (-1.0, 60.0):
        made.clear()
        with suppress(InfeasibleBudgetError):
            load_solver("capuchin").solve(tight, SolveOptions(time_limit_s=limit))
        counts.append(len(made))
    assert counts[0] == 2 < counts[1]


def test_capuchin_recomputes_what_a_slow_link_cannot_carry() -> None:
    chain = training_chain([Layer("relu", 100, 50)] * 40, copy_ns=10)
    # Alone each of the first two dozen would travel unseen, for 1,000 ns each way; the forward pass takes 2,000.
    tight = replace(chain, budget_bytes=_keep_peak(chain) * 3 // 4)
    found = solve(load_solver("capuchin"), tight, SolveOptions())
    assert len(found.schedule.engine(Direction.OUT)) <= 2
    assert found.timeline.step_ns < 1.5 * chain.base_duration_ns


def _dtr_problem(costs: tuple[int, int, int], sizes: tuple[int, int, int]) -> Problem:
    """Three results made one after the other from nothing, a hungry task, then one task that reads all."""
    values = tuple(Value(f"v{i}", size) for i, size in enumerate((*sizes, 1, 1)))
    made = [Task(f"t{i}", costs[i], (), (i,), sizes[i], True) for i in range(3)]
    hungry = Task("hungry", 10, (), (3,), 50, True)
    last = Task("last", 10, (0, 1, 2, 3), (4,), 1, False)
    return Problem((*made, hungry, last), values, 1 << 40)


@pytest.mark.parametrize(
    ("costs", "sizes"),
    [((9, 9, 9), (20, 20, 20)), ((90, 9, 9), (20, 20, 20)), ((9, 9, 9), (20, 40, 20)), ((50, 60, 30), (20, 30, 25))],
)
def test_dtr_evicts_the_value_of_least_cost_for_its_bytes_and_staleness(
    costs: tuple[int, int, int], sizes: tuple[int, int, int]
) -> None:
    problem = replace(_dtr_problem(costs, sizes), budget_bytes=sum(sizes) + 49)
    clock = list(itertools.accumulate(costs))
    score = [costs[i] / (sizes[i] * (clock[2] - clock[i] + 1)) for i in range(3)]
    steps = solve(load_solver("dtr"), problem, SolveOptions()).schedule.steps
    assert steps == (0, 1, 2, 3, min(range(3), key=score.__getitem__), 4)


def test_dtr_counts_what_its_victim_would_bring_back_with_it() -> None:
    # a → b, c alone; b and c cost the same and are as large, b is staler; but a is evicted already, so that b costs more.
    values = (Value("a", 40), Value("b", 20), Value("c", 20), Value("d", 1), Value("e", 1))
    tasks = (
        Task("a", 1000, (), (0,), 40, True),
        Task("b", 10, (0,), (1,), 20, True),
        Task("c", 10, (), (2,), 20, True),
        Task("hungry", 10, (), (3,), 70, True),
        Task("last", 10, (1, 2, 3), (4,), 1, False),
    )
    steps = solve(load_solver("dtr"), Problem(tasks, values, 100), SolveOptions()).schedule.steps
    assert steps == (0, 1, 2, 3, 2, 4)


def test_dtr_says_where_it_finds_nothing_to_evict() -> None:
    problem = replace(_dtr_problem((9, 9, 9), (20, 20, 20)), budget_bytes=62)
    tasks = tuple(replace(task, recomputable=False) for task in problem.tasks)
    with pytest.raises(InfeasibleBudgetError, match="dtr finds nothing to evict at layer 'hungry'"):
        load_solver("dtr").solve(replace(problem, tasks=tasks), SolveOptions())


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_keeps_the_most_computing_time_that_fits(seed: int) -> None:
    import random

    rng = random.Random(seed)
    count = 8
    sizes = [rng.randint(1, 30) for _ in range(count)]
    sizes[-1] += 100 - sum(sizes) % 100  # so that a thousandth is a whole number of bytes, times a whole number
    scale = 1000 * 1
    values = tuple(Value(f"v{i}", size * scale) for i, size in enumerate(sizes))
    tasks = tuple(Task(f"t{i}", rng.randint(1, 99), (), (i,), 1, True) for i in range(count))
    problem, total = Problem(tasks, values, 1 << 40), sum(sizes)
    for share, kept in zip((1.0, 0.6, 0.3, 0.0), kept_values(problem, range(count), (1.0, 0.6, 0.3, 0.0)), strict=True):
        weight = {v: -(-sizes[v] * 1000 // total) for v in range(count)}
        subsets = [s for r in range(count + 1) for s in itertools.combinations(range(count), r)]
        fitting = [s for s in subsets if share >= 1 or sum(weight[v] for v in s) <= int(share * 1000)]
        best = max(sum(tasks[v].duration_ns for v in s) for s in fitting)
        assert sum(tasks[v].duration_ns for v in kept) == best
        assert share >= 1 or sum(weight[v] for v in kept) <= int(share * 1000)


def test_the_partitioner_makes_again_what_the_knapsack_leaves_out() -> None:
    # Saved are y0 … y3 (100 bytes each); worth 50, 5, 40, 30 ns. For three quarters of the bytes, y1 is left out.
    chain = training_chain(
        [Layer("a", 100, 50), Layer("b", 100, 5), Layer("c", 100, 40), Layer("d", 100, 30), Layer("e", 1, 9)]
    )
    assert _steps("pytorch-knapsack", chain) == "01234edcba"
    assert _steps("pytorch-knapsack", chain, _keep_peak(chain) - 1) == "01234ed1cba"
