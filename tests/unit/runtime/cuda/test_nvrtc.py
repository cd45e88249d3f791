"""NVRTC takes every kernel's text, for Ampere and Hopper: the compiler needs no card.

It runs in a process of its own, so that a process of tests never holds NVIDIA's library beside the emulated card's.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from multiprocessing import get_context

import pytest
from onnx import TensorProto, helper
from support.kernel_cases import ELEMENTS, cases, source_kernels
from support.zoo_networks import small_forward

from planc.errors import DeviceError
from planc.graph.fused import C_TYPES, CASTS, EXPRESSIONS, PREDICATES, function
from planc.graph.grouped import is_group
from planc.importer.import_model import ImportedModel, import_model
from planc.importer.submodel import element_type
from planc.kernels import OPERATORS
from planc.runtime.cuda.compiler import can_compile, compiled
from planc.runtime.cuda.group_source import pass_source
from planc.runtime.cuda.source import PREAMBLE, Operand, source
from planc.training import Optimizer, differentiate

ARCHITECTURES = ("sm_80", "sm_90")
ELF = b"\x7fELF"


@pytest.fixture(scope="module")
def nvrtc() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        if not pool.submit(can_compile).result():
            pytest.skip("NVRTC is not here: pip install nvidia-cuda-nvrtc")
        yield pool


def _texts(name: str) -> list[tuple[str, bool]]:
    """Texts of an operator's kernels with every element type, for aligned addresses and for any; each once."""
    of_types = [[call for call in cases(dtype) if call.operator.name == name] for dtype in ELEMENTS]
    kernels = [[kernel for call in calls for kernel in source_kernels(call)] for calls in of_types]
    kernels = [found for found in kernels if found]  # attention has such kernels for float32 alone
    texts: dict[str, bool] = {}
    turn = cycle(range(len(kernels)))
    for k in range(max(2, len(ELEMENTS), *map(len, kernels))):
        found = kernels[next(turn)]
        kernel = found[k % len(found)]
        chosen = kernel.narrow if k % 2 and kernel.narrow is not None else kernel
        texts[chosen.source] = chosen.contract
    return list(texts.items())


WITH_SOURCE = sorted({call.operator.name for dtype in ELEMENTS for call in cases(dtype)})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", WITH_SOURCE)
def test_nvrtc_takes_every_kernel(nvrtc: ProcessPoolExecutor, name: str, architecture: str) -> None:
    texts, contracts = zip(*_texts(name), strict=True)
    placed = [text.replace("PREFIX", "kernel") for text in texts]
    for code in nvrtc.map(compiled, placed, [architecture] * len(placed), contracts):
        assert code.startswith(ELF)


def test_every_operator_with_cuda_source_has_a_case() -> None:
    by_cudnn = {"Convolution", "ConvolutionInputGradient", "ConvolutionWeightGradient"}
    assert set(WITH_SOURCE) == {name for name, operator in OPERATORS.items() if operator.cuda} - by_cudnn


def _fused(op_type: str, kinds: list[int], made: int, name: str, wide: bool) -> str:
    """The kernel of one operator over a broadcast row, a whole tensor and so on."""
    given = [f"a{k}" for k in range(len(kinds))]
    node = helper.make_node(op_type, given, ["y"], **({"to": made} if op_type == "Cast" else {}))
    operands = [Operand(kind, (6, 40) if k else (40,)) for k, kind in enumerate(kinds)]
    operands[0] = Operand(kinds[0], (6, 40)) if len(kinds) == 1 else operands[0]
    return source(name, function("f", [node], given, ["y"], 18), operands, [Operand(made, (6, 40))], wide)


def _every_expression() -> Iterator[tuple[str, list[int], int]]:
    elements = {c_type: kind for kind, c_type in C_TYPES.items()}
    for op_type, expression in EXPRESSIONS.items():
        operands = 1 + max(k for k in range(3) if f"{{{k}}}" in expression)
        kinds = [TensorProto.BOOL if op_type in ("And", "Or", "Not") else TensorProto.FLOAT] * operands
        kinds[0] = TensorProto.BOOL if op_type == "Where" else kinds[0]
        yield op_type, kinds, TensorProto.BOOL if op_type in PREDICATES else TensorProto.FLOAT
    for given, made in CASTS:
        yield "Cast", [elements[given]], elements[made]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_takes_every_fused_operator(nvrtc: ProcessPoolExecutor, architecture: str) -> None:
    texts = [
        _fused(*operator, f"k{k}_{int(wide)}", wide)
        for k, operator in enumerate(_every_expression())
        for wide in (True, False)
    ]
    assert nvrtc.submit(compiled, PREAMBLE + "".join(texts), architecture, False).result().startswith(ELF)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_takes_groups_of_updates(nvrtc: ProcessPoolExecutor, architecture: str) -> None:
    step = small_forward("squeezenet")
    model = differentiate(step.model, loss=step.loss, optimizer=Optimizer("adamw"), device="cuda", precision="bf16")
    imported = import_model(model, fused=True)
    texts = list(_groups(imported, wide=architecture == "sm_90"))
    assert texts
    assert nvrtc.submit(compiled, PREAMBLE + "".join(texts), architecture, False).result().startswith(ELF)


def _groups(imported: ImportedModel, wide: bool) -> Iterator[str]:
    for op in imported.graph.ops:
        if is_group(op.op_type):
            inputs, outputs = (
                [Operand(element_type(imported, t), imported.graph.tensors[t].shape) for t in ids]
                for ids in (op.inputs, op.outputs)
            )
            yield pass_source(f"k{op.node}", imported.functions[op.op_type], inputs, outputs, wide)


def test_what_nvrtc_refuses_is_told_in_its_words(nvrtc: ProcessPoolExecutor) -> None:
    with pytest.raises(DeviceError, match='identifier "nothing" is undefined'):
        nvrtc.submit(compiled, 'extern "C" __global__ void k(float* a) { *a = nothing; }', "sm_90", False).result()
