"""One scratch arena for the whole test process, large enough for every plan that the tests load; and the tests' order."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from planc.packing.pack import CHECK_UP_TO
from planc.runtime.scratch import reserve_scratch
from planc.runtime.tiers import TIER_VARIABLE

os.environ.setdefault(CHECK_UP_TO, "300")
os.environ.setdefault(TIER_VARIABLE, "ram")  # tests of files say so

_caches = tempfile.TemporaryDirectory(prefix="planc-caches-")
os.environ["XDG_CACHE_HOME"] = _caches.name  # what was kept on this machine before must not answer for the code

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts pytest in the background ignores it

settings.register_profile("repeatable", derandomize=True)
settings.register_profile("searching", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
"""The suite tries the same examples every time; HYPOTHESIS_PROFILE=searching looks for new ones."""


def pytest_configure(config: pytest.Config) -> None:
    """Note which messages the tests see, where PLANC_MESSAGES names a file for that."""
    if "PLANC_MESSAGES" in os.environ:
        from support.messages import Recorder

        config.pluginmanager.register(Recorder(Path(os.environ["PLANC_MESSAGES"]).absolute()))


@pytest.fixture(scope="session", autouse=True)
def _scratch_arena() -> None:
    reserve_scratch(64 << 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the emulated card first: a process that has loaded NVIDIA's own libraries, as any look for a usable
    device does, cannot load the emulated ones in their place."""
    items.sort(key=lambda item: "card" not in getattr(item, "fixturenames", ()))
