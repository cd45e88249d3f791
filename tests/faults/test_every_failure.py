"""Whatever call of the system fails, and whenever: a typed error, no torn state, no half file, nothing left behind."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support import networks
from support.failing import SITES, Trials
from support.plans import random_plan

from planc.runtime.tiers import swap_folder

_EVERY = {"run": 5, "write": 3, "read": 3, "session": 2, "heap": 2}
"""Calls of which only every so many are let fail here; the campaign `refused` lets all of them."""


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    imported = networks.mlp()
    with TemporaryDirectory(dir=swap_folder()) as folder:  # on a disk where there is one, for transfers past the cache
        yield Trials(imported, random_plan(imported, 1, True), Path(folder))


@pytest.mark.parametrize("site", SITES)
def test_a_failure_ends_in_a_typed_error_and_leaves_the_state_whole_or_refused(trials: Trials, site: str) -> None:
    number, reached = 1, True
    while reached:
        fault, reached = trials.fault(site, number)
        assert fault is None
        number += _EVERY.get(site, 1)
    # Memory for the host tier is not asked for with a file; transfers are not copied where the disk takes any address.
    assert number > 1 + _EVERY.get(site, 1) or site in ("host slab", "bounce")
