"""What the profiler does around a meter: each distinct layer once, scaled to the stretches it stands in."""

from collections.abc import Sequence

import numpy as np
import pytest
from support import networks

from planc.costs.table import CopyPoint, DeviceInfo, EngineCost, FormCost, LayerCost, Link
from planc.errors import DeviceError, UsageError
from planc.graph.footprint import padded_bytes
from planc.importer.import_model import ImportedModel
from planc.importer.submodel import SubModel, sub_model
from planc.profiling import profile as profiling
from planc.profiling.meter import sample_value
from planc.profiling.profile import profile


class CountingMeter:
    """Says that a layer takes 1 µs for each operator alone, and half of that in company."""

    def __init__(self, stretch_bytes: int, broken: str = "") -> None:
        self.stretch_bytes, self.broken = stretch_bytes, broken
        self.layers = self.stretches = 0
        self.closed = False

    def layer(self, _imported: ImportedModel, model: SubModel) -> LayerCost:
        if self.broken and self.layers == 3:
            raise RuntimeError(self.broken)
        self.layers += 1
        return LayerCost(compute_ns=1000 * _operators(model), scratch_bytes=64)

    def engines(self, _imported: object) -> dict[str, tuple[EngineCost, ...]]:
        return {}

    def workspace_forms(self, *_: object) -> dict[str, FormCost]:
        return {}

    def forms(self, _imported: ImportedModel, _model: SubModel) -> dict[str, FormCost]:
        return {
            "slow": FormCost(compute_ns=10**9, scratch_bytes=64),
            "small": FormCost(compute_ns=10**9, scratch_bytes=0),
            "fast": FormCost(compute_ns=500, scratch_bytes=1 << 20),
        }

    def stretch(self, _imported: ImportedModel, model: SubModel) -> int:
        self.stretches += 1
        return 500 * _operators(model)

    def link(self, _host_tier: str | None) -> Link:
        return Link(points=(CopyPoint(size=64, out_ns=1, in_ns=1),))

    def boundary_ns(self) -> int:
        return 7

    def session_bytes(self, _imported: ImportedModel, models: Sequence[SubModel]) -> int:
        return 1000 * len({model.signature for model in models})

    def device(self) -> DeviceInfo:
        return DeviceInfo(name="counted", kind="cpu", memory_bytes=1)

    def close(self) -> None:
        self.closed = True


def _operators(model: SubModel) -> int:
    return len({port.position for port in model.outputs})


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
    alone = sum(1000 * _operators(model) for model in models)
    whole = sub_model(imported, range(len(imported.graph.ops)))
    assert total == pytest.approx(500 * _operators(whole), rel=0.01)
    assert total < alone
    assert meter.closed


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
