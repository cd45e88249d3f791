"""Host tiers: bytes come back as they went, errors name the tier, files go away."""

import errno
import mmap
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from planc.errors import DeviceError, UsageError
from planc.runtime.tiers import open_tier


@pytest.mark.parametrize("kind", ["ram", "file"])
@pytest.mark.parametrize("size", [1, 4095, 4096, 70_001, (9 << 20) + 3])
def test_bytes_come_back(kind: str, size: int, tmp_path: Path) -> None:
    tier = open_tier("ram" if kind == "ram" else f"file:{tmp_path / 'tier'}", 24 << 20)
    data = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    other = data[::-1].copy()
    tier.store(0, data.data)
    tier.store(12 << 20, other.data)
    back = np.zeros(size, np.uint8)
    tier.fetch(0, back.data)
    assert back.tobytes() == data.tobytes()
    tier.fetch(12 << 20, back.data)
    assert back.tobytes() == other.tobytes()
    tier.close()
    assert list(tmp_path.iterdir()) == []


def test_both_directions_at_once(tmp_path: Path) -> None:
    tier = open_tier(f"file:{tmp_path / 'tier'}", 16 << 20)
    data = np.arange(4 << 20, dtype=np.uint8)
    tier.store(0, data.data)
    back = np.zeros_like(data)
    writer = threading.Thread(target=tier.store, args=(8 << 20, data.data))
    reader = threading.Thread(target=tier.fetch, args=(0, back.data))
    for thread in (writer, reader):
        thread.start()
    for thread in (writer, reader):
        thread.join()
    assert back.tobytes() == data.tobytes()
    tier.close()


def test_an_unknown_tier_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="expected ram, file or file:PATH"):
        open_tier("tape", 10)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="missing.*--host-tier"):
        open_tier(f"file:{tmp_path / 'missing' / 'tier'}", 10)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_exists_is_never_opened(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "data", tmp_path / "target"
    target.write_bytes(b"of the user")
    path.symlink_to(target) if kind == "link" else path.write_bytes(b"of the user")
    with pytest.raises(DeviceError, match="data.*exists.*another folder or a new name"):
        open_tier(f"file:{path}", 1 << 20)
    assert path.read_bytes() == b"of the user"


def test_a_folder_is_a_place_too_and_nothing_is_seen_there(tmp_path: Path) -> None:
    tier = open_tier(f"file:{tmp_path}", 1 << 20)
    assert list(tmp_path.iterdir()) == []
    tier.close()


def test_without_unnamed_files_the_name_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no such files here")
        return real(path, flags, *mode)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    tier = open_tier(f"file:{tmp_path / 'tier'}", 1 << 20)
    assert list(tmp_path.iterdir()) == []
    tier.close()


def test_two_tiers_of_one_path_have_bytes_of_their_own(tmp_path: Path) -> None:
    tiers = [open_tier(f"file:{tmp_path / 'tier'}", 1 << 20) for _ in range(2)]
    for value, tier in enumerate(tiers):
        tier.store(0, np.full(5000, value, np.uint8).data)
    back = np.zeros(5000, np.uint8)
    for value, tier in enumerate(tiers):
        tier.fetch(0, back.data)
        assert (back == value).all()
        tier.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("shift", [0, 256, 512, 4096])
def test_any_address_and_size_goes_and_neighbours_stay(
    direct: bool, shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.setattr("planc.runtime.file_tier._bypass_cache", lambda _: False)
    tier = open_tier(f"file:{tmp_path}", 16 << 20)
    memory, back = mmap.mmap(-1, 8 << 20), np.zeros(5 << 20, np.uint8)
    slab = np.frombuffer(memory, np.uint8)
    slab[:] = np.random.default_rng(shift).integers(0, 256, slab.size, np.uint8)
    neighbour = slab[:4096].copy()
    for size in (256, 4096, 4096 + 256, (1 << 20) + 768, (4 << 20) + 4352):
        after = -(-size // 4096) * 4096
        tier.store(after + 4096, neighbour.data)
        tier.store(4096, slab[shift : shift + size].data)
        tier.fetch(4096, back[:size].data)
        assert back[:size].tobytes() == slab[shift : shift + size].tobytes()
        tier.fetch(after + 4096, back[:4096].data)
        assert back[:4096].tobytes() == neighbour.tobytes()
    tier.close()


def test_a_slot_that_is_not_aligned_is_refused(tmp_path: Path) -> None:
    tier = open_tier(f"file:{tmp_path}", 1 << 20)
    with pytest.raises(DeviceError, match="not at a multiple of 4096"):
        tier.store(256, np.zeros(256, np.uint8).data)
    tier.close()
    with pytest.raises(DeviceError, match="closed"):
        tier.store(0, np.zeros(256, np.uint8).data)


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_disk_that_fails_is_named_when_no_request_is_under_way_any_more(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = open_tier(f"file:{tmp_path / 'swap'}", 16 << 20)
    under_way: list[int] = []

    def fail(_file: int, _data: object, offset: int) -> int:
        under_way.append(offset)
        time.sleep(0.01 if offset else 0.05)
        under_way.remove(offset)
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, call, fail)
    move = tier.store if call == "pwrite" else tier.fetch
    with pytest.raises(DeviceError, match="swap.*the disk is gone"):
        move(0, np.zeros(8 << 20, np.uint8).data)
    assert under_way == []
    monkeypatch.undo()
    tier.close()


def test_a_disk_without_room_leaves_nothing(tmp_path: Path) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeviceError, match="needs a new file of"):
        open_tier(f"file:{tmp_path}", 1 << 60)
    assert len(os.listdir("/proc/self/fd")) == files
