"""Kernels of groups, compiled for the host: each member has the bits of the kernel that it has alone, in place or not."""

import ctypes
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.host_passes import compiled_for_host

from planc.graph.fused import DOMAIN, function
from planc.graph.grouped import Member, grouped, is_group, members_of
from planc.importer.fused_body import Body
from planc.runtime.cuda.group_source import reads_vectors
from planc.runtime.cuda.source import BLOCK, Operand

FLOAT, BRAIN, BOOL = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.BOOL
Array = Any
SHAPES = [(1,), (3, 5), (64,), (BLOCK * 4 * 2 + 3,), (16, 40), (BLOCK * 8,)]


def _momentum(gradient: str) -> Any:
    """v' = mu v + g, w' = w - rate v' in a step that counts, else both stay; w, v, g [shape], mu, rate and finite ()."""
    node, body = helper.make_node, Body()
    types = {"w": "float32", "v": "float32", "g": gradient, "mu": "float32", "rate": "float32", "finite": "bool"}
    known = {name: k for k, name in enumerate(types)}
    for name, dtype in types.items():
        body.read(known[name], f"a{known[name]}", dtype)
    for step in (
        node("Mul", ["v", "mu"], ["p"]), node("Add", ["p", "g"], ["n"]), node("Mul", ["n", "rate"], ["d"]),
        node("Sub", ["w", "d"], ["u"]), node("Where", ["finite", "u", "w"], ["w2"]),
        node("Where", ["finite", "n", "v"], ["v2"]),
    ):  # fmt: skip
        known[step.output[0]] = made = len(known)
        body.compute(step.op_type, (), [known[name] for name in step.input], made, "float32")
    ends = body.written([known["w2"], known["v2"]], ["float32", "float32"])
    return function("momentum", body.nodes, [f"a{k}" for k in range(6)], ends, 18)


def _group() -> tuple[Any, list[Operand], list[Operand]]:
    """A group over all shapes, gradients of both types in turn; the last three inputs are all members' own."""
    count = len(SHAPES)
    members, inputs, outputs = [], [], []
    for k, shape in enumerate(SHAPES):
        kind = (FLOAT, BRAIN)[k % 2]
        shared = (3 * count, 3 * count + 1, 3 * count + 2)
        members.append(Member(_momentum(("float32", "bfloat16")[k % 2]), (3 * k, 3 * k + 1, 3 * k + 2, *shared), ()))
        inputs += [Operand(FLOAT, shape), Operand(FLOAT, shape), Operand(kind, shape)]
        outputs += [Operand(FLOAT, shape)] * 2
    return grouped(members, 18), [*inputs, Operand(FLOAT, ()), Operand(FLOAT, (1,)), Operand(BOOL, ())], outputs


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """`run_wide` and `run_narrow` of the group, and `run_K` of member K alone."""
    made, inputs, outputs = _group()
    passes = {"wide": (made, inputs, outputs, True), "narrow": (made, inputs, outputs, False)}
    for k, member in enumerate(members_of(made)):
        passes[str(k)] = (
            member.function,
            [inputs[i] for i in member.inputs],
            [outputs[i] for i in member.outputs],
            False,
        )
    return compiled_for_host(passes, tmp_path_factory.mktemp("groups"))


def _aligned(shape: tuple[int, ...], dtype: Any, skip: int = 0) -> Array:
    room = np.full(int(np.prod(shape)) * dtype.itemsize + 128, 0x4D, np.uint8)
    start = -room.ctypes.data % 64 + skip * dtype.itemsize
    return room[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)


def _values(operands: list[Operand], finite: bool, skip: int) -> list[Array]:
    rng, found = np.random.default_rng(7), []
    for operand in operands:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(operand.element_type))
        value = _aligned(operand.shape, dtype, skip)
        value[...] = finite if operand.element_type == BOOL else rng.standard_normal(operand.shape).astype(dtype)
        if value.size > 1 and operand.element_type != BOOL:
            value.reshape(-1)[1] = np.nan if value.size % 2 else np.inf
        found.append(value)
    return found


def _run(library: ctypes.CDLL, name: str, arrays: list[Array]) -> None:
    getattr(library, f"run_{name}")((ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)))


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_every_member_has_its_own_bits(kernels: ctypes.CDLL, name: str, in_place: bool, finite: bool) -> None:
    made, inputs, outputs = _group()
    skip = int(name == "narrow")
    given = _values(inputs, finite, skip)
    wanted = []
    for k, member in enumerate(members_of(made)):
        alone = [_aligned(outputs[i].shape, np.dtype(np.float32)) for i in member.outputs]
        _run(kernels, str(k), [*(given[i] for i in member.inputs), *alone])
        wanted += [a.tobytes() for a in alone]
    olds = [given[3 * k + i] for k in range(len(SHAPES)) for i in range(2)]
    results = olds if in_place else [_aligned(o.shape, np.dtype(np.float32), skip) for o in outputs]
    _run(kernels, name, [*given, *results])
    assert [a.tobytes() for a in results] == wanted


def test_members_are_told_apart_by_what_they_make() -> None:
    made, _, outputs = _group()
    assert is_group(made.name)
    assert made.domain == DOMAIN
    members = members_of(made)
    assert [member.outputs for member in members] == [(2 * k, 2 * k + 1) for k in range(len(SHAPES))]
    assert len({member.function.SerializeToString(deterministic=True) for member in members}) == 2
    assert grouped(members, 18).SerializeToString(deterministic=True) == grouped(members, 18).SerializeToString(
        deterministic=True
    )
    assert reads_vectors(made, [], outputs)
