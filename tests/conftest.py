"""One scratch arena for the whole test process, large enough for every plan that the tests load."""

import pytest

from planc.runtime.scratch import reserve_scratch


@pytest.fixture(scope="session", autouse=True)
def _scratch_arena() -> None:
    reserve_scratch(64 << 20)
