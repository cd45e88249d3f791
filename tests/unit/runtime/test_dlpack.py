"""DLPack both ways, against numpy's own reader and writer, and through a step on the emulated card."""

import ctypes
import gc

import ml_dtypes
import numpy as np
import pytest
from cuda_emulator.emulator import Emulator
from support import networks
from support.emulated import card, cuda_plan, open_step
from support.plans import random_plan

from planc.errors import FeedError
from planc.runtime import dlpack
from planc.runtime.cuda.driver import allocate, call
from planc.runtime.dlpack import DeviceArray, Place, take
from planc.runtime.measure import synthetic_feeds

__all__ = ["card"]
TYPES = ["float32", "float64", "float16", "int8", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", TYPES)
def test_numpy_reads_what_is_exported(dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    exported = DeviceArray(values.ctypes.data, values.shape, values.dtype, owner=values, place=Place.CPU)
    read = np.from_dlpack(exported)
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)
    assert read.ctypes.data == values.ctypes.data
    assert dlpack._shared
    del read
    gc.collect()
    assert not dlpack._shared


def test_a_capsule_that_nobody_takes_is_given_back() -> None:
    values = np.zeros(4, np.float32)
    capsule = DeviceArray(values.ctypes.data, (4,), values.dtype, place=Place.CPU).__dlpack__()
    assert dlpack._shared
    del capsule
    gc.collect()
    assert not dlpack._shared


@pytest.mark.parametrize("dtype", TYPES)
def test_what_numpy_exports_is_taken_without_a_copy(dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    taken = take("x", values)
    assert (taken.shape, taken.dtype, taken.place) == (values.shape, values.dtype, Place.CPU)
    assert taken.address == values.ctypes.data
    assert taken.nbytes == values.nbytes


def test_bfloat16_survives_both_ways() -> None:
    values = np.arange(6).astype(ml_dtypes.bfloat16)
    taken = take("x", DeviceArray(values.ctypes.data, (6,), values.dtype, place=Place.CPU))
    assert taken.dtype == values.dtype
    assert taken.address == values.ctypes.data


def test_a_strided_array_is_refused_by_name() -> None:
    with pytest.raises(FeedError, match="'x' is not contiguous"):
        take("x", np.zeros((4, 4), np.float32).T[:, ::2])


def test_feeds_and_outputs_stay_on_the_card(card: Emulator) -> None:
    imported = networks.mlp()
    plan = cuda_plan(imported, 0)
    feeds = synthetic_feeds(imported.graph, 0)
    with open_step(card, imported, plan) as step:
        want = step(feeds)
        state = step.state()
    with open_step(card, imported, plan) as step:
        shared = {name: _on_card(value) for name, value in feeds.items()}
        assert step.run([], shared) == []
        assert {name: value.tobytes() for name, value in step.state().items()} == {
            name: value.tobytes() for name, value in state.items()
        }
        for name in step.output_names:
            lent = step.on_device(name)
            assert lent.numpy().tobytes() == want[name].tobytes()
            assert ctypes.string_at(lent.address, lent.nbytes) == want[name].tobytes()
        with pytest.raises(FeedError, match="unknown output 'abacus'"):
            step.on_device("abacus")
        elsewhere = {name: DeviceArray(v.address, v.shape, v.dtype, index=1) for name, v in shared.items()}
        with pytest.raises(FeedError, match="is on card 1, the step on card 0"):
            step.run([], elsewhere)
        for array in shared.values():
            call("cuMemFree", array.address)


def _on_card(value: np.ndarray) -> DeviceArray:
    """A copy of an array in device memory of its own."""
    address = allocate(value.nbytes, "a feed")
    call("cuMemcpyHtoD", address, value.ctypes.data, value.nbytes)
    return DeviceArray(address, value.shape, value.dtype)


def test_a_step_on_the_cpu_has_nothing_to_lend() -> None:
    imported = networks.mlp()
    from planc.runtime.step import load

    with load(random_plan(imported, 0), imported) as step:
        step(synthetic_feeds(imported.graph, 0))
        with pytest.raises(FeedError, match="is in host memory"):
            step.on_device(step.output_names[0])
