"""Operators of planc's own in ONNX Runtime's C API."""

import ctypes

import pytest

from planc.runtime.ort import custom_ops
from planc.runtime.ort.c_api import api_table

_GET_NAME, _GET_ID = 71, 72
"""`MemoryInfoGetName` and `MemoryInfoGetId` of onnxruntime_c_api.h."""


@pytest.mark.parametrize(("kind", "index"), [("Cpu", 0), ("Cuda", 0), ("Cuda", 1), ("Cuda", 7)])
def test_workspace_is_asked_of_the_memory_of_the_sessions_card(kind: str, index: int) -> None:
    table = api_table()
    assert table is not None
    memory = custom_ops._memory(kind, index)
    name, number = ctypes.c_char_p(), ctypes.c_int(-1)
    for position, found in ((_GET_NAME, name), (_GET_ID, number)):
        function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(table[position] or 0)
        assert not function(memory, ctypes.addressof(found))
    assert (name.value, number.value) == (kind.encode(), index)
