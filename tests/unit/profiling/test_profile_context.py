"""What the profiler does around a meter: each distinct layer once, scaled to the stretches it stands in."""

import msgspec
import numpy as np
import pytest
from support import networks
from support.counting_meter import CountingMeter, operators

from planc.errors import DeviceError, UsageError
from planc.graph.footprint import padded_bytes
from planc.importer.submodel import sub_model
from planc.profiling import profile as profiling
from planc.profiling.cpu import CpuMeter
from planc.profiling.meter import sample_value
from planc.profiling.once import Measured
from planc.profiling.profile import profile


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> CountingMeter:
    made = CountingMeter(1 << 30)
    monkeypatch.setattr(profiling, "open_meter", lambda _: made)
    return made


def test_every_distinct_layer_is_measured_once_and_scaled_to_its_company(meter: CountingMeter) -> None:
    imported = networks.cnn()
    table = profile(imported, "counted")
    models = [sub_model(imported, range(layer.start, layer.stop)) for layer in imported.graph.layers]
    assert meter.layers == len(table.unique) == len({model.signature for model in models})
    assert meter.stretches == 1
    total = sum(table.layer(i).compute_ns for i in range(len(models)))
    alone = sum(1000 * operators(model) for model in models)
    whole = sub_model(imported, range(len(imported.graph.ops)))
    assert total == pytest.approx(500 * operators(whole), rel=0.01)
    assert total < alone
    assert meter.closed


def test_what_graphs_have_in_common_is_measured_once(meter: CountingMeter) -> None:
    small, large, measured = networks.mlp(), networks.cnn(), Measured()
    first = profile(small, "counted", measured=measured)
    asked = meter.layers, meter.stretches, meter.links
    again = profile(small, "counted", measured=measured)
    assert (meter.layers, meter.stretches, meter.links) == asked
    assert (again.unique, again.layers, again.link) == (first.unique, first.layers, first.link)
    other = profile(large, "counted", measured=measured)
    models = [sub_model(each, range(layer.start, layer.stop)) for each in (small, large) for layer in each.graph.layers]
    assert meter.layers == len({model.signature for model in models})
    assert meter.links == 1
    assert other == msgspec.structs.replace(profile(large, "counted"), created=other.created)


def test_without_stretches_layers_stay_as_measured(meter: CountingMeter) -> None:
    meter.stretch_bytes = 0
    table = profile(networks.mlp(), "counted")
    assert meter.stretches == 0
    assert all(cost.compute_ns % 1000 == 0 for cost in table.unique)


def test_a_layer_that_does_not_run_is_named(meter: CountingMeter) -> None:
    meter.broken = "no such kernel"
    with pytest.raises(DeviceError, match=r"layer '.+' does not run on counted: no such kernel"):
        profile(networks.cnn(), "counted")
    assert meter.closed


@pytest.mark.parametrize("share", [2, 3, 8])
def test_stretches_are_disjoint_in_order_and_within_the_limit(share: int) -> None:
    imported = networks.cnn()
    graph = imported.graph
    limit = sum(padded_bytes(graph, s) for s in range(len(graph.storages))) // share
    end = 0
    for begin, stop in profiling._stretches(imported, limit):
        assert end <= begin < stop
        end = stop
        ops = range(graph.layers[begin].start, graph.layers[stop - 1].stop)
        touched = {s for op in ops for s in (*graph.op_reads[op], *graph.op_writes[op])}
        assert sum(padded_bytes(graph, s) for s in touched) <= limit
    assert end > len(graph.layers) // 2


def test_positions_made_by_pooling_are_spread() -> None:
    imported = networks.cnn()
    graph = imported.graph
    pool = next(op for op in graph.ops if op.op_type == "MaxPool" and len(op.outputs) > 1)
    model = sub_model(imported, range(graph.layers[-1].start, graph.layers[-1].stop))
    port = type(model.inputs[0])("positions", pool.outputs[1], 0)
    values = sample_value(imported, port, np.random.default_rng(0))
    assert values.shape == graph.tensors[pool.outputs[1]].shape
    assert len(np.unique(values)) == values.size
    assert values.max() < np.prod(graph.tensors[pool.inputs[0]].shape)


@pytest.mark.parametrize("device", ["abacus", "cuda:x", "cpu:1"])
def test_an_unknown_device_lists_what_there_is(device: str) -> None:
    with pytest.raises(UsageError, match=r"unknown device .* cuda:INDEX, .* rtx-4090"):
        profiling.open_meter(device)


def test_forms_are_kept_where_they_save_time_or_scratch_and_scale_with_their_layer(meter: CountingMeter) -> None:
    imported = networks.cnn()
    plain, table = profile(imported, "counted"), profile(imported, "counted", forms=True)
    assert all(not cost.alternatives for cost in plain.unique)
    assert {frozenset(cost.alternatives) for cost in table.unique} == {frozenset({"small", "fast"})}
    for before, after in zip(plain.unique, table.unique, strict=True):
        assert before.compute_ns == after.compute_ns
        assert after.alternatives["fast"].compute_ns == 250


def test_stretches_of_many_layers_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = networks.cnn()
    count = len(imported.graph.layers)
    assert list(profiling._stretches(imported, 1 << 40)) == [(0, count)]
    monkeypatch.setattr(profiling, "_LONGEST_STRETCH", 3)
    found = list(profiling._stretches(imported, 1 << 40))
    assert found == [(begin, min(begin + 3, count)) for begin in range(0, count, 3)]


def test_the_cpu_measures_layers_in_company_within_a_share_of_free_memory() -> None:
    meter = CpuMeter()
    assert 0 < meter.stretch_bytes <= meter.device().memory_bytes // 4
