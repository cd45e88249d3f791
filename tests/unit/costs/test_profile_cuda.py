"""The CUDA profiler with the real provider on the emulated card, whose clock and memory are known."""

import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.emulated import card

from planc.compiler import CompileOptions, compile_model
from planc.costs.profile import profile

__all__ = ["card"]

HANDLES = (64 << 10) + (128 << 10)
"""What the emulated cuBLAS and cuDNN keep for each handle, of which a session has one each."""


def test_a_profile_of_the_card_compiles(card: Emulator) -> None:
    imported = networks.cnn()
    table = profile(imported, "cuda")
    assert table.device.kind == "cuda"
    assert table.device.name == "emulated card"
    assert {"cudnn", "cublas", "driver", "capability", "onnxruntime"} <= set(table.device.versions)
    assert len(table.layers) == len(imported.graph.layers)
    assert any(layer.scratch_bytes for layer in table.unique)
    assert table.link.points[-1].out_ns == pytest.approx(1000 + table.link.points[-1].size, rel=0.05)
    assert compile_model(imported, table, CompileOptions("120%", time_limit_s=1.0)).plan.runs
    assert card.live == 0


def test_the_memory_of_a_session_is_what_its_handles_take(card: Emulator) -> None:
    table = profile(networks.mlp(), "cuda")
    assert table.device.session_bytes == pytest.approx(HANDLES, rel=0.1)
