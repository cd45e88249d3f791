"""Cost tables and plans know the version of planc's own kernels they were made with, and are refused with others."""

from dataclasses import replace
from functools import cache

import msgspec
import pytest
from support.costs import made_up_costs
from support.zoo_networks import MOMENTUM, small_forward

from planc.compiler.job import CompileJob
from planc.costs.table import CostTable
from planc.errors import DeviceError
from planc.importer.import_model import ImportedModel, import_model
from planc.kernels import source
from planc.libraries import onednn_version
from planc.runtime.cuda.kernel_version import kernel_version
from planc.runtime.own_kernels import kernel_versions, require_kernels
from planc.training import differentiate


@cache
def _imported(name: str, device: str = "cuda", fused: bool = True) -> ImportedModel:
    built = small_forward(name)
    step = differentiate(built.model, loss=built.loss, optimizer=MOMENTUM, device=device, parameters=built.parameters)
    return import_model(step, fused=fused)


def _changed(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Let the text of a kernel have another line."""
    known = source._text
    monkeypatch.setattr(source, "_text", lambda name: known(name) + ("// changed\n" if name == file else ""))


def test_a_version_changes_with_the_kernels_that_the_step_uses_and_with_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: kernel_version(_imported(name)) for name in ("resnet18", "gpt2")}
    assert before == {name: kernel_version(_imported(name)) for name in before}
    assert len(set(before.values())) == 2
    _changed(monkeypatch, "batch_norm_gradient.cu")
    assert kernel_version(_imported("resnet18")) != before["resnet18"]
    assert kernel_version(_imported("gpt2")) == before["gpt2"]


def test_joined_element_wise_operators_count(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = _imported("mlp")
    before = kernel_version(imported)
    monkeypatch.setattr("planc.runtime.cuda.source.BLOCK", 128)
    assert kernel_version(imported) != before


def test_a_step_without_own_kernels_has_no_version() -> None:
    assert kernel_version(_imported("mlp", "cpu", fused=False)) == ""
    assert kernel_versions(_imported("resnet18", "cpu", fused=False), "cpu") == {}
    assert kernel_versions(_imported("resnet18"), "cpu") == {"planc_kernels": onednn_version()}
    assert kernel_versions(_imported("resnet18"), "cuda:1").keys() == {"planc_kernels"}


def _costs(imported: ImportedModel, versions: dict[str, str], estimated: bool = False) -> CostTable:
    costs = made_up_costs(imported.graph)
    device = msgspec.structs.replace(costs.device, kind="cuda", versions=versions)
    return msgspec.structs.replace(costs, device=device, estimated=estimated)


def test_costs_of_other_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = _imported("resnet18")
    costs = _costs(imported, kernel_versions(imported, "cuda"))
    CompileJob.of(imported, costs)
    CompileJob.of(imported, _costs(imported, {}, estimated=True))
    with pytest.raises(DeviceError, match="another version of planc's own kernels .unknown, here .*planc profile"):
        CompileJob.of(imported, _costs(imported, {}))
    _changed(monkeypatch, "batch_norm.cu")
    with pytest.raises(DeviceError, match="the cost table is of another version of planc's own kernels"):
        CompileJob.of(imported, costs)
    other = replace(imported, graph=imported.graph)
    with pytest.raises(DeviceError, match="plan.json is of another version"):
        require_kernels(other, "cuda", costs.device.versions, "plan.json")
