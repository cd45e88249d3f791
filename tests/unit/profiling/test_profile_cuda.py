"""The CUDA profiler with the real provider on the emulated card, whose clock and memory are known."""

import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.costs import made_up_costs
from support.emulated import card

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.importer.submodel import sub_model
from planc.profiling.cuda import CudaMeter
from planc.profiling.profile import profile

__all__ = ["card"]

LINK = made_up_costs(networks.mlp().graph).link
KERNEL_NS = 100_000  # what the emulated card takes for a kernel that belongs to no planned segment
HANDLES = (64 << 10) + (64 << 10)
"""What the emulated cuBLAS and cuBLASLt keep for each handle, of which a session has one each; cuDNN's is shared."""


@pytest.fixture(autouse=True)
def small_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are not measured: their buffers are too large for emulated memory."""
    monkeypatch.setattr(CudaMeter, "link", lambda *_: LINK)
    monkeypatch.setattr(CudaMeter, "boundary_ns", lambda _: 10)


def test_a_profile_of_the_card_compiles(card: Emulator) -> None:
    imported = networks.cnn()
    table = profile(imported, "cuda")
    assert table.device.kind == "cuda"
    assert table.device.name == "emulated card"
    assert {"cudnn", "cublas", "driver", "capability", "onnxruntime"} <= set(table.device.versions)
    assert len(table.layers) == len(imported.graph.layers)
    assert any(layer.scratch_bytes for layer in table.unique)
    assert all(layer.compute_ns >= KERNEL_NS for layer in table.unique)
    assert compile_model(imported, table, CompileOptions("2MiB", time_limit_s=1.0)).plan.runs
    assert card.live == 0


def test_the_memory_of_a_session_is_what_its_handles_take(card: Emulator) -> None:
    table = profile(networks.mlp(), "cuda")
    assert table.device.session_bytes == pytest.approx(HANDLES, rel=0.1)


def test_convolutions_have_forms_with_other_workspaces(card: Emulator) -> None:
    imported = networks.cnn()
    card.workspace(40 << 20)
    meter = CudaMeter()
    found = {}
    for layer in imported.graph.layers:
        kinds = {op.op_type for op in imported.graph.ops[layer.start : layer.stop]}
        model = sub_model(imported, range(layer.start, layer.stop))
        forms = meter.forms(imported, model)
        assert bool(forms) == bool(kinds & {"Conv", "ConvTranspose"})
        if forms:
            found[layer.title] = (meter.layer(imported, model).scratch_bytes, forms)
    meter.close()
    assert found
    for default, forms in found.values():
        assert default == forms["mode_b"].scratch_bytes >= 40 << 20
        assert forms["fallback"].scratch_bytes < 1 << 20
