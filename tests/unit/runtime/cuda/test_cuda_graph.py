"""Recording and replaying on the emulated card; and that the card sees what it must see."""

import ctypes
from typing import Any

import numpy as np
import pytest
from cuda_emulator.emulator import Emulator
from support.emulated import card

from planc.runtime.cuda.driver import Context, CudaError, allocate, allocate_pinned, call, new_event, new_stream
from planc.runtime.cuda.graph import record

__all__ = ["card"]


class Lane:
    """A context with two streams and a buffer on either side; everything is freed on exit."""

    def __enter__(self) -> "Lane":
        self.context = Context()
        self.streams = [new_stream(), new_stream()]
        self.device, self.host = allocate(4096, "test"), allocate_pinned(4096, "test")
        self.pinned = np.ctypeslib.as_array((ctypes.c_uint8 * 4096).from_address(self.host))
        self.events: list[Any] = []
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams:
            call("cuStreamDestroy", stream)
        for event in self.events:
            call("cuEventDestroy", event)
        call("cuMemFree", self.device)
        call("cuMemFreeHost", self.host)
        self.context.close()

    def copy_in(self, stream: int, at: int = 0, source: int = 0, size: int = 64) -> None:
        call("cuMemcpyHtoDAsync", self.device + at, self.host + source, size, self.streams[stream])

    def copy_out(self, stream: int, at: int = 0, target: int = 0, size: int = 64) -> None:
        call("cuMemcpyDtoHAsync", self.host + target, self.device + at, size, self.streams[stream])

    def order(self, first: int, then: int) -> None:
        self.events.append(new_event())
        call("cuEventRecord", self.events[-1], self.streams[first])
        call("cuStreamWaitEvent", self.streams[then], self.events[-1], 0)


def test_the_card_sees_a_race_and_both_sides_of_it(card: Emulator) -> None:
    with Lane() as lane:
        lane.copy_in(0)
        lane.copy_out(1, target=1024)
    assert len(card.problems) == 1
    assert card.problems[0] == "race on device+0: in pinned+0 -> device+0 64 and out device+0 -> pinned+1024 64"


def test_an_event_orders_what_would_race(card: Emulator) -> None:
    with Lane() as lane:
        lane.copy_in(0)
        lane.order(0, 1)
        lane.copy_out(1, target=1024)
    assert card.problems == []


def test_the_card_sees_unwritten_and_foreign_bytes(card: Emulator) -> None:
    with Lane() as lane:
        lane.copy_out(0, at=128)
        call("cuStreamSynchronize", lane.streams[0])
        lane.copy_in(0, at=4096 - 32)
        assert sorted(problem.split(":")[0] for problem in card.problems) == [
            "outside any allocation",
            "read of bytes never written at device+128",
        ]
        card.reset()


def test_some_seed_runs_unordered_work_the_other_way_round(card: Emulator) -> None:
    seen = set()
    for seed in range(40):
        card.reset(seed)
        with Lane() as lane:
            lane.pinned[:64], lane.pinned[64:128] = 1, 2
            lane.copy_in(0, source=0)
            lane.copy_in(1, source=64)
            for stream in lane.streams:
                call("cuStreamSynchronize", stream)
            lane.copy_out(0, target=1024)
            call("cuStreamSynchronize", lane.streams[0])
            seen.add(int(lane.pinned[1024]))
    assert seen == {1, 2}


def test_a_replay_repeats_the_work_of_all_streams(card: Emulator) -> None:
    with Lane() as lane:

        def queue() -> None:
            lane.copy_in(0)
            lane.order(0, 1)
            lane.copy_out(1, target=2048)

        replay = record(queue, lane.streams[0], lane.streams[1:])
        assert replay.nodes == 2
        assert card.trace() == []
        for value in (5, 9):
            lane.pinned[:64] = value
            replay()
            call("cuStreamSynchronize", lane.streams[0])
            assert (lane.pinned[2048 : 2048 + 64] == value).all()
        replay.close()
    assert card.problems == []


def test_host_callbacks_are_left_out_and_their_order_kept(card: Emulator) -> None:
    called = []
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: called.append(1))
    launch = card._library.cuLaunchHostFunc
    launch.argtypes = [ctypes.c_void_p] * 3
    with Lane() as lane:

        def queue() -> None:
            lane.copy_in(0)
            launch(int(lane.streams[0]), ctypes.cast(function, ctypes.c_void_p), None)
            lane.copy_out(0, target=2048)

        replay = record(queue, lane.streams[0], ())
        for seed in range(8):
            card.reset(seed)
            lane.pinned[:64] = seed
            replay()
            call("cuStreamSynchronize", lane.streams[0])
            assert (lane.pinned[2048 : 2048 + 64] == seed).all()
        replay.close()
    assert called == []


def test_what_cannot_be_recorded_leaves_the_stream_usable(card: Emulator) -> None:
    with Lane() as lane:

        def queue() -> None:
            lane.copy_in(0)
            call("cuStreamSynchronize", lane.streams[0])

        with pytest.raises(CudaError, match="cuStreamSynchronize"):
            record(queue, lane.streams[0], ())
        lane.copy_in(0)
        call("cuStreamSynchronize", lane.streams[0])
    assert card.problems == []


def test_a_stream_that_is_not_joined_spoils_the_recording(card: Emulator) -> None:
    with Lane() as lane:

        def queue() -> None:
            lane.copy_in(0)
            lane.order(0, 1)
            lane.copy_out(1, target=2048)

        with pytest.raises(CudaError, match="cuStreamEndCapture"):
            record(queue, lane.streams[0], ())
