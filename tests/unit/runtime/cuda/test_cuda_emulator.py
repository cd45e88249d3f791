"""The emulated libraries see what a provider's kernels touch, and say when it is not what their operators own."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime as ort
from cuda_emulator.emulator import Emulator, WatchedBinding, WatchedSession
from onnx import TensorProto, helper
from support.emulated import card

from planc.runtime.cuda.driver import Context, allocate, call, new_stream

__all__ = ["card"]

SIZE = 1024  # bytes of each tensor


def _model(*types: str) -> bytes:
    """A chain of operators of one input each, x → t1 → t2 …, all of 256 float32."""
    names = ["x", *(f"t{i + 1}" for i in range(len(types)))]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE // 4]) for name in names]
    nodes = [helper.make_node(kind, [names[i]], [names[i + 1]]) for i, kind in enumerate(types)]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


@contextmanager
def _bound(card: Emulator, *types: str) -> Iterator[tuple[WatchedSession, WatchedBinding, int]]:
    """The session of a chain over consecutive device memory, its binding, and the memory's address."""
    context, count = Context(), len(types) + 1
    at, stream = allocate(count * SIZE, "test"), new_stream()
    session = card.session(_model(*types), 0, int(stream))
    binding = session.io_binding()
    for i, name in enumerate(["x", *(f"t{i}" for i in range(1, count))]):
        bind = binding.bind_output if i else binding.bind_input
        bind(name, "cuda", 0, TensorProto.FLOAT, (SIZE // 4,), at + i * SIZE)
    data = np.arange(SIZE, dtype=np.uint8)
    call("cuMemcpyHtoD", at, data.ctypes.data, SIZE)
    try:
        yield session, binding, at
    finally:
        del session, binding
        call("cuMemFree", at)
        call("cuStreamDestroy", stream)
        context.close()


def _bytes(at: int) -> bytes:
    data = np.empty(SIZE, np.uint8)
    call("cuMemcpyDtoH", data.ctypes.data, at, SIZE)
    return data.tobytes()


def test_kernels_of_the_provider_belong_to_their_operators(card: Emulator) -> None:
    with _bound(card, "Relu", "Exp") as (session, binding, at):
        session.run_with_iobinding(binding, ort.RunOptions())
        assert card.problems == []
        ran = [line for line in card.trace() if line.startswith("segment")]
        assert ["OP_Relu" in ran[0], "OP_Exp" in ran[1], len(ran)] == [True, True, 2]
        results = {_bytes(at + i * SIZE) for i in range(3)}
        assert len(results) == 3


def test_equal_bytes_in_give_equal_bytes_out_and_others_others(card: Emulator) -> None:
    with _bound(card, "Relu") as (session, binding, at):
        results = []
        for value in (1, 2, 1):
            data = np.full(SIZE, value, np.uint8)
            call("cuMemcpyHtoD", at, data.ctypes.data, SIZE)
            session.run_with_iobinding(binding, ort.RunOptions())
            results.append(_bytes(at + SIZE))
        assert results[0] == results[2] != results[1]


def test_a_kernel_that_touches_what_its_operator_does_not_own_is_reported(card: Emulator) -> None:
    with _bound(card, "Relu", "Exp") as (session, binding, _):
        binding.ranges["t1"], binding.ranges["t2"] = binding.ranges["t2"], binding.ranges["t1"]
        session.run_with_iobinding(binding, ort.RunOptions())
        assert any("explains the pointers of" in problem for problem in card.problems)
        card.reset()


def test_an_output_that_nothing_writes_is_reported(card: Emulator) -> None:
    with _bound(card, "Relu", "Exp") as (session, binding, _):
        session.nodes.append(onnx.NodeProto(op_type="Neg", input=["t2"], output=["t3"]))
        binding.ranges["t3"] = (binding.ranges["t2"][0] + SIZE, SIZE)
        session.run_with_iobinding(binding, ort.RunOptions())
        assert card.problems == ["nothing was launched that writes an output of Neg in segment -1"]
        card.reset()


def test_kernels_on_a_stream_race_with_unordered_copies_of_planc(card: Emulator) -> None:
    with _bound(card, "Relu") as (session, binding, at):
        session.run_with_iobinding(binding, _queue_only())
        other = new_stream()
        call("cuMemcpyDtoDAsync", at + SIZE, at, 64, other)
        call("cuStreamDestroy", other)
        assert any("race on" in problem and "OP_Relu" in problem for problem in card.problems)
        card.reset()


def _queue_only() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
