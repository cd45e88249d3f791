"""The cache of a compiled function holds no longer than the files and constants that its machine code is made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planc.compiled.cache import stamp
from planc_solvers.search.annealing import anneal

PARTS = {
    "factor.py": "FACTOR = 3",
    "times.py": """
import numba
from factor import FACTOR

@numba.njit
def times(x):
    return x * FACTOR + 0
""",
    "main.py": """
import numba
from times import times
from planc.compiled.cache import is_cached, keep_on_disk

@numba.njit
def total(x):
    return times(x) + times(x)

keep_on_disk(total)
print(is_cached(total), total(1), sum(total.stats.cache_hits.values()))
""",
}


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [("times.py", "+ 0", "+ 1", "8"), ("factor.py", "3", "5", "10")],
    ids=["a function called", "a constant"],
)
def test_a_change_in_another_file_is_noticed(tmp_path: Path, file: str, before: str, after: str, expected: str) -> None:
    for name, text in PARTS.items():
        (tmp_path / name).write_text(text)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def run() -> list[str]:
        command = [sys.executable, tmp_path / "main.py"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()

    assert [run(), run()] == [["False", "6", "0"], ["True", "6", "1"]]
    (tmp_path / file).write_text(PARTS[file].replace(before, after))
    assert [run(), run()] == [["False", expected, "0"], ["True", expected, "1"]]


def test_what_is_defined_further_down_counts(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        """
import numba
from planc.compiled.cache import stamp

@numba.njit
def total(x):
    return times(x)

before = stamp(total)

@numba.njit
def times(x):
    return x * FACTOR

FACTOR = 3
print(stamp(total) == before)
"""
    )
    command = [sys.executable, tmp_path / "main.py"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_another_process_finds_the_same_stamps() -> None:
    script = (
        "from planc.compiled.cache import stamp; "
        "from planc_solvers.search.annealing import anneal; print(stamp(anneal))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == stamp(anneal)
