"""Engines of cuDNN on the emulated card: measured, chosen by form, pinned by plans."""

from dataclasses import replace
from functools import cache

import msgspec
import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.costs import made_up_costs
from support.emulated import card
from support.zoo_networks import small_forward

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.costs.table import EngineCost
from planc.errors import DeviceError
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.submodel import sub_model
from planc.kernels.engines import chosen
from planc.profiling.cuda import CudaMeter
from planc.profiling.cuda_engines import frontier, library_calls
from planc.profiling.profile import profile
from planc.runtime.cuda import cudnn
from planc.runtime.step import load
from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer

__all__ = ["card"]

LARGE = 40 << 20


@pytest.fixture(autouse=True)
def small_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are not measured: their buffers are too large for emulated memory."""
    link = made_up_costs(networks.mlp().graph).link
    monkeypatch.setattr(CudaMeter, "link", lambda *_: link)
    monkeypatch.setattr(CudaMeter, "boundary_ns", lambda *_: 10)


@cache
def _imported() -> ImportedModel:
    built = small_forward("resnet18")
    model = differentiate(
        built.model, loss=built.loss, optimizer=Optimizer("sgd"), parameters=built.parameters, device="cuda"
    )
    return import_model(model)


def _engine(name: str, workspace: int, ns: int) -> EngineCost:
    return EngineCost(engine=name, workspace_bytes=workspace, compute_ns=ns)


def test_kept_are_engines_with_less_workspace_than_all_faster_ones() -> None:
    timed = [
        _engine("a", 8, 100),
        _engine("b", 9, 110),
        _engine("c", 4, 150),
        _engine("d", 4, 160),
        _engine("e", 0, 900),
    ]
    assert [e.engine for e in frontier(timed)] == ["a", "c", "e"]


def test_of_engines_as_fast_as_each_other_the_lean_one_is_kept() -> None:
    assert [e.engine for e in frontier([_engine("a", 8, 100), _engine("b", 0, 102)])] == ["b"]
    assert [e.engine for e in frontier([_engine("a", 8, 100), _engine("b", 0, 103)])] == ["a", "b"]


def test_a_form_limits_the_workspace_of_every_call() -> None:
    table = {"one": [("fast", 20 << 20), ("lean", 0)], "two": [("only", 100 << 20)]}
    assert chosen(table) == {"one": "fast", "two": "only"}
    assert chosen(table, "workspace_64m") == {"one": "fast", "two": "only"}
    assert chosen(table, "workspace_16m") == {"one": "lean", "two": "only"}
    assert chosen(table, "workspace_0m") == {"one": "lean", "two": "only"}


def test_every_convolution_of_a_step_is_measured_and_pinned(card: Emulator) -> None:
    imported = _imported()
    calls = {name for name, *_ in library_calls(imported)}
    assert {name.partition("_")[0] for name in calls} == {
        "Convolution", "ConvolutionInputGradient", "ConvolutionWeightGradient",
    }  # fmt: skip
    card.workspace(LARGE)
    table = profile(imported, "cuda")
    assert table.engines.keys() == calls
    for engines in table.engines.values():
        assert [e.workspace_bytes for e in engines] == sorted((e.workspace_bytes for e in engines), reverse=True)
    plan = compile_model(imported, table, CompileOptions("200MiB", time_limit_s=1.0)).plan
    assert plan.engine_table == table.engine_table
    assert plan.costs.versions["cudnn"] == table.device.versions["cudnn"]
    assert card.live == 0


def test_a_lean_form_takes_the_lean_engine(card: Emulator) -> None:
    """A session of a form runs by the engine that the form allows, and takes its workspace."""
    imported = _imported()
    card.workspace(LARGE)
    name, _, kernel = next(iter(library_calls(imported)))
    layer = next(
        x for x in imported.graph.layers if any(o.op_type == name for o in imported.graph.ops[x.start : x.stop])
    )
    meter = CudaMeter()
    graphs = list(cudnn.candidates(name, kernel))
    engines = {name: tuple(_engine(g.engine, g.workspace, 10 + i) for i, g in enumerate(graphs))}
    assert [e.workspace_bytes for e in engines[name]] == [LARGE, 4096]
    table = {name: [(e.engine, e.workspace_bytes) for e in engines[name]]}
    model = sub_model(replace(imported, engines=table), range(layer.start, layer.stop))
    forms = meter.workspace_forms(imported, model, meter.layer(imported, model), engines)
    assert meter.layer(imported, model).scratch_bytes >= LARGE
    meter.close()
    assert [form.scratch_bytes for form in forms.values()] == [4096]


def test_a_plan_of_another_cudnn_is_refused(card: Emulator) -> None:
    imported = _imported()
    table = profile(imported, "cuda")
    plan = compile_model(imported, table, CompileOptions("200MiB", time_limit_s=1.0)).plan
    versions = plan.costs.versions | {"cudnn": "90100"}
    other = msgspec.structs.replace(plan, costs=msgspec.structs.replace(plan.costs, versions=versions))
    with pytest.raises(DeviceError, match="pins engines of cuDNN 90100, this machine has 91400: .*planc profile"):
        load(other, imported)
    assert card.live == 0
