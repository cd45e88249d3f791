"""Which kernel runs at which addresses: the one for vectors wants all of them aligned, the other takes any."""

from typing import Any

import pytest
from onnx import TensorProto, helper

from planc.graph.fused import function
from planc.kernels.device import WORKSPACE, Buffer, Launch, SourceKernel
from planc.runtime.cuda import fused, kernels
from planc.runtime.cuda.source import Operand

LAUNCH = Launch("PREFIX_f", (3, 1, 1), 64, (Buffer(0), Buffer(1, 8), Buffer(WORKSPACE, 4)), frozenset({1}), shared=5)
NARROW = SourceKernel("narrow", (LAUNCH,), 16)
WIDE = SourceKernel("wide", (LAUNCH,), 16, alignment=16, narrow=NARROW)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The launches of a card that is not there: a function's handle is its name."""
    known: dict[str, Any] = {}
    calls: list[tuple[Any, ...]] = []
    for module in (kernels, fused):
        monkeypatch.setattr(module, "load", lambda texts, *_a, **_k: known.update({name: name for name in texts}))
        monkeypatch.setattr(module, "handles", lambda: known)
        monkeypatch.setattr(module, "launch", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(kernels, "allow_shared", lambda *_: None)
    return calls


@pytest.mark.parametrize(
    ("addresses", "function"),
    [([256, 512, 1024], "k_f"), ([256, 520, 1024], "k_narrow_f"), ([257, 512, 1024], "k_narrow_f"),
     ([256, 512, 1032], "k_narrow_f")],
)  # fmt: skip
def test_an_address_that_is_not_aligned_gets_the_other_kernel(
    launched: list[tuple[Any, ...]], addresses: list[int], function: str
) -> None:
    run = kernels.source_kernel("k", WIDE)
    run(addresses, 9)
    a, b, workspace = addresses
    assert launched == [(function, (3, 1, 1), 64, [a, b + 8, workspace + 4], 9, 5)]


def test_a_kernel_without_another_takes_any_address(launched: list[tuple[Any, ...]]) -> None:
    kernels.source_kernel("k", NARROW)([1, 2, 3], 0)
    assert launched[0][0] == "k_f"


@pytest.mark.parametrize(("address", "suffix"), [(512, ""), (516, "_narrow")])
def test_fused_kernels_likewise(launched: list[tuple[Any, ...]], address: int, suffix: str) -> None:
    body = function("f", [helper.make_node("Neg", ["a0"], ["y"])], ["a0"], ["y"], 18)
    operand = Operand(TensorProto.FLOAT, (64,))
    kernel = fused._Kernel(body, (operand,), (operand,))
    fused.load({kernel.name: kernel.text(wide=True)})
    fused._run(kernel, 1, [256, address], 0)
    assert launched[0][0] == kernel.name + suffix
