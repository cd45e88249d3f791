"""One scratch arena for the whole test process, large enough for every plan that the tests load; and the tests' order."""

import os

import pytest
from hypothesis import settings

from planc.packing.pack import CHECK_UP_TO
from planc.runtime.scratch import reserve_scratch
from planc.runtime.tiers import TIER_VARIABLE

os.environ.setdefault(CHECK_UP_TO, "300")
os.environ.setdefault(TIER_VARIABLE, "ram")  # tests of files say so

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("searching", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
"""The suite tries the same examples every time; HYPOTHESIS_PROFILE=searching looks for new ones."""


@pytest.fixture(scope="session", autouse=True)
def _scratch_arena() -> None:
    reserve_scratch(64 << 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the emulated card first: a process that has loaded NVIDIA's own libraries, as any look for a usable
    device does, cannot load the emulated ones in their place."""
    items.sort(key=lambda item: "card" not in getattr(item, "fixturenames", ()))
