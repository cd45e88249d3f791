"""One cuDNN handle for all sessions of a step, by the real provider on the emulated card."""

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from cuda_emulator.emulator import Emulator
from onnxruntime.capi import onnxruntime_pybind11_state as native
from support import networks
from support.emulated import card, cuda_plan, expected, open_step, run_steps

from planc.importer.submodel import sub_model
from planc.runtime.cuda import handle_sharing as cuda_handles
from planc.runtime.cuda.driver import Context, call, new_stream
from planc.runtime.cuda.elf import slots_of
from planc.runtime.cuda.handle_sharing import HandleHook, shared_handle
from planc.runtime.cuda.provider import cuda_session

__all__ = ["card"]

CUDNN_HANDLE = 128 << 10
OTHER_HANDLES = 128 << 10  # cuBLAS and cuBLASLt


def _hook() -> HandleHook:
    hook = cuda_handles.installed()
    if hook is None:
        pytest.skip("the provider's handles are shared on x86-64 Linux only")
    gc.collect()  # the watched sessions of other tests hold themselves
    return hook


@pytest.fixture
def stream(card: Emulator) -> Iterator[int]:
    """A stream of the card, in its context."""
    context = Context()
    made = new_stream()
    yield int(made)
    call("cuStreamDestroy", made)
    context.close()


def _handles(hook: HandleHook) -> list[int]:
    return [shared.sessions for shared in hook._handles.values()]


def test_all_sessions_of_a_step_share_one_handle_and_it_goes_with_them(card: Emulator) -> None:
    hook, imported = _hook(), networks.cnn()
    plan, want = cuda_plan(imported, 3), expected(card, imported, 2)
    with open_step(card, imported, plan) as step:
        assert run_steps(step, imported, 2) == want
        count = step.device.session_count
        assert count > 1
        assert _handles(hook) == [count]
    gc.collect()
    assert _handles(hook) == []
    assert cuda_handles.is_sharing()
    assert card.problems == []


def test_steps_on_two_streams_have_a_handle_each(card: Emulator) -> None:
    hook, imported = _hook(), networks.mlp()
    plan = cuda_plan(imported, 1)
    with open_step(card, imported, plan) as first, open_step(card, imported, plan) as second:
        run_steps(first, imported, 1)
        run_steps(second, imported, 1)
        assert _handles(hook) == [first.device.session_count, second.device.session_count]
    gc.collect()
    assert _handles(hook) == []


def test_a_session_outside_has_a_handle_of_its_own(card: Emulator, stream: int) -> None:
    hook, imported = _hook(), networks.mlp()
    model = sub_model(imported, range(1)).model_bytes
    with shared_handle(stream):
        inside = cuda_session(model, 0, stream)
    before = card.library_live_bytes
    outside = cuda_session(model, 0)
    assert _handles(hook) == [1]
    own = card.library_live_bytes - before
    with shared_handle(stream):
        another = cuda_session(model, 0, stream)
    assert _handles(hook) == [2]
    assert own - (card.library_live_bytes - before - own) >= CUDNN_HANDLE
    del inside, outside, another
    gc.collect()
    assert _handles(hook) == []


def test_handles_are_left_to_the_system_once_python_has_ended(card: Emulator, stream: int) -> None:
    hook = _hook()
    model = sub_model(networks.mlp(), range(1)).model_bytes
    with shared_handle(stream):
        session = cuda_session(model, 0, stream)
    before, kept = card.library_live_bytes, [hook._jumps._cells[i] for i in range(3)]
    hook._outlive_python()
    try:
        del session
        gc.collect()
        assert _handles(hook) == [1]
        assert before - card.library_live_bytes < CUDNN_HANDLE + OTHER_HANDLES
    finally:
        for i, target in enumerate(kept):
            hook._jumps.point(i, target)
    (handle,) = hook._handles
    assert hook._destroy(handle) == 0


def test_pointers_of_libraries_are_found_where_the_loader_put_them() -> None:
    library = Path(native.__file__)
    (slot, *_) = slots_of(library, "dlsym")
    libc = ctypes.CDLL(None)
    assert ctypes.c_void_p.from_address(slot).value == ctypes.cast(libc.dlsym, ctypes.c_void_p).value
    with pytest.raises(ValueError, match="no pointer to no_such_function"):
        slots_of(library, "no_such_function")
    with pytest.raises(ValueError, match="not loaded"):
        slots_of(library.with_name("libonnxruntime_providers_tensorrt.so"), "dlsym")
