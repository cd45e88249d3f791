"""One scratch arena for the whole test process, large enough for every plan that the tests load; and the tests' order."""

import pytest

from planc.runtime.scratch import reserve_scratch


@pytest.fixture(scope="session", autouse=True)
def _scratch_arena() -> None:
    reserve_scratch(64 << 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the emulated card first: a process that has loaded NVIDIA's own libraries, as any look for a usable
    device does, cannot load the emulated ones in their place."""
    items.sort(key=lambda item: "card" not in getattr(item, "fixturenames", ()))
