"""The profiler measures every layer once and what it writes compiles and runs within its own figures."""

from support import networks

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.profiling.profile import profile
from planc.runtime.measure import measure
from planc.runtime.step import load


def test_profile_compile_run() -> None:
    imported = networks.cnn()
    seen: list[tuple[int, int]] = []
    table = profile(imported, "cpu", lambda done, total, _: seen.append((done, total)))
    assert len(table.layers) == len(imported.graph.layers)
    assert set(table.layers) == set(range(len(table.unique)))
    assert all(cost.compute_ns > 0 for cost in table.unique)
    assert seen[-1][0] == seen[-1][1] == len(table.unique)
    sizes = [point.size for point in table.link.points]
    assert sizes == sorted(sizes)
    plan = compile_model(imported, table, CompileOptions(budget="min", time_limit_s=5)).plan
    with load(plan, imported, measure=True) as step:
        result = measure(step, 3, 0, compare=True)
    assert result.bitwise_equal is True
    assert result.peak_scratch_bytes <= plan.memory.scratch_bytes


def test_identical_layers_are_measured_once() -> None:
    imported = networks.mlp()
    table = profile(imported, "cpu")
    by_name = {layer.title: table.layers[i] for i, layer in enumerate(imported.graph.layers)}
    assert by_name["fc0 forward"] == by_name["fc1 forward"] == by_name["fc2 forward"]
    assert by_name["fc0 forward"] != by_name["head_matmul forward"]
