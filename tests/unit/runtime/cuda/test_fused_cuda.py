"""Fused kernels on a card: each operator's bits, broadcasting, and a whole chain, against ONNX Runtime's own kernels."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from planc.devices import preferred_device
from planc.graph.fused import DOMAIN, EXPRESSIONS, HALVES, PREDICATES, VERSION, function
from planc.runtime.cuda.driver import Context, call
from planc.runtime.cuda.fused import can_fuse
from planc.runtime.cuda.provider import cuda_session

OPSET = 18
BOOLS = {"And": 2, "Or": 2, "Not": 1, "Cast": 1}
COMPARISONS = PREDICATES - BOOLS.keys()
BINARY = {"Add", "Sub", "Mul", "Div"} | COMPARISONS
OPERATORS = sorted((EXPRESSIONS.keys() | {"Cast"}) - {"Identity"})


@pytest.fixture(scope="module", autouse=True)
def _card() -> Context:
    if preferred_device().name != "cuda" or not can_fuse():
        pytest.skip("no CUDA card with NVRTC")
    return Context()


def _floats(shape: Sequence[int], seed: int) -> np.ndarray:
    """Numbers of all sizes, and the special ones."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 6, shape)).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 88.8, -104, 3e38], np.float32)
    flat = values.reshape(-1)
    flat[: min(len(special), flat.size)] = rng.permutation(special)[: flat.size]
    return values


def _model(nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], output: int, fused: bool) -> bytes:
    """The nodes, as they are or as one fused operator, over inputs like `feeds`."""
    shape = np.broadcast_shapes(*(value.shape for value in feeds.values()))
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    ends = nodes[-1].output[0]
    functions, opsets = [], [helper.make_opsetid("", OPSET)]
    if fused:
        functions = [function("f", nodes, list(feeds), [ends], OPSET)]
        opsets.append(helper.make_opsetid(DOMAIN, VERSION))
        nodes = [helper.make_node("f", list(feeds), [ends], domain=DOMAIN)]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info(ends, output, shape)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions).SerializeToString()


def _assert_same_bits(nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], output: int) -> None:
    plain, fused = (cuda_session(_model(nodes, feeds, output, kind), 0).run(None, feeds)[0] for kind in (False, True))
    assert plain.shape == fused.shape
    numbers = ~np.isnan(plain) if plain.dtype.kind == "f" else np.ones_like(plain)
    assert np.array_equal(np.isnan(plain), np.isnan(fused)) if plain.dtype.kind == "f" else True
    assert plain[numbers].tobytes() == fused[numbers].tobytes()


@pytest.mark.parametrize("shape", [(64, 1000), (7, 11, 3)])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_every_operator_gives_the_bits_of_onnx_runtimes_kernel(op_type: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    if op_type == "Where":
        feeds = {"a": rng.random(shape) < 0.5, "b": _floats(shape, 2), "c": _floats(shape, 3)}
    elif op_type in BOOLS:
        feeds = {name: rng.random(shape) < 0.5 for name in "ab"[: BOOLS[op_type]]}
    else:
        feeds = {name: _floats(shape, seed) for seed, name in enumerate("ab" if op_type in BINARY else "a")}
    node = helper.make_node(op_type, list(feeds), ["y"])
    if op_type == "Cast":
        node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    boolean = op_type in PREDICATES
    _assert_same_bits([node], feeds, TensorProto.BOOL if boolean else TensorProto.FLOAT)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op_type", sorted(EXPRESSIONS.keys() - BOOLS.keys() - COMPARISONS - {"Identity"}))
def test_an_operator_of_halves_gives_the_float32_kernels_bits_rounded(op_type: str, dtype: str) -> None:
    shape, half = (33, 100), helper.tensor_dtype_to_np_dtype(HALVES[dtype])
    names = ["b", "c"] if op_type == "Where" else ["a", "b"] if op_type in BINARY else ["a"]
    with np.errstate(over="ignore"):
        feeds = {name: _floats(shape, seed).astype(half) for seed, name in enumerate(names)}
    flags = {"c0": np.random.default_rng(1).random(shape) < 0.5} if op_type == "Where" else {}
    wide = {name: value.astype(np.float32) for name, value in feeds.items()}
    inputs = [*flags, *wide]
    plain = _model([helper.make_node(op_type, inputs, ["y"])], {**flags, **wide}, TensorProto.FLOAT, False)
    with np.errstate(over="ignore"):
        wanted = cuda_session(plain, 0).run(None, {**flags, **wide})[0].astype(half)
    nodes = [helper.make_node("Cast", [name], [f"wide_{name}"], to=TensorProto.FLOAT) for name in names]
    nodes.append(helper.make_node(op_type, [*flags, *(f"wide_{name}" for name in names)], ["v"]))
    nodes.append(helper.make_node("Cast", ["v"], ["y"], to=HALVES[dtype]))
    found = _run_on_card(_model(nodes, {**flags, **feeds}, HALVES[dtype], True), {**flags, **feeds}, half)
    numbers = ~np.isnan(wanted.astype(np.float32))
    assert np.array_equal(numbers, ~np.isnan(found.astype(np.float32)))
    assert found[numbers].tobytes() == wanted[numbers].tobytes()


def _run_on_card(model: bytes, feeds: dict[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The output `y`; ONNX Runtime's Python has no values of bfloat16, so tensors are bound by address in the card."""
    session = cuda_session(model, 0)
    binding, held = session.io_binding(), []
    y = np.empty(np.broadcast_shapes(*(value.shape for value in feeds.values())), dtype)
    for name, value in (*feeds.items(), ("y", y)):
        address = call("cuMemAlloc", value.nbytes)
        held.append(address)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        if name == "y":
            binding.bind_output(name, "cuda", 0, kind, value.shape, int(address))
        else:
            call("cuMemcpyHtoD", address, value.ctypes.data, value.nbytes)
            binding.bind_input(name, "cuda", 0, kind, value.shape, int(address))
    session.run_with_iobinding(binding)
    call("cuCtxSynchronize")
    call("cuMemcpyDtoH", y.ctypes.data, held[-1], y.nbytes)
    for address in held:
        call("cuMemFree", address)
    return y


SHAPES = [(1,), (8,), (5, 1), (3, 1, 1), (1, 5, 8), (3, 5, 1), (2, 1, 1, 1), (2, 1, 5, 1), (2, 3, 1, 8)]


@pytest.mark.parametrize(("left", "right"), list(product(SHAPES, [(2, 3, 5, 8), (2, 3, 5, 7)])))
def test_operands_are_broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    if left[-1] not in (1, right[-1]):
        left = (*left[:-1], right[-1])
    nodes = [helper.make_node("Mul", ["a", "b"], ["u"]), helper.make_node("Add", ["u", "a"], ["y"])]
    _assert_same_bits(nodes, {"a": _floats(left, 1), "b": _floats(right, 2)}, TensorProto.FLOAT)


def test_a_product_and_a_sum_are_not_contracted() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["u"]), helper.make_node("Add", ["u", "c"], ["v"]),
        helper.make_node("Sigmoid", ["v"], ["w"]), helper.make_node("Mul", ["w", "a"], ["x"]),
        helper.make_node("Sub", ["x", "b"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((256, 1024)).astype(np.float32) for name in "abc"}
    _assert_same_bits(nodes, feeds, TensorProto.FLOAT)
