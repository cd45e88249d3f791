"""Host tiers: bytes come back as they went, errors name the tier, files go away."""

import threading
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
    with pytest.raises(UsageError, match="expected ram or file:PATH"):
        open_tier("tape", 10)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="missing.*--host-tier"):
        open_tier(f"file:{tmp_path / 'missing' / 'tier'}", 10)
