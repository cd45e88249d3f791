"""Functions that are parts of compiled ones: callers of callers get their code, and a cache holds all of it."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import numba
import numpy as np
from planc.compiled.parts import PartCompiler

part = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=PartCompiler)


@part
def square(x):
    return x * x


@part
def row_total(table, row):
    found = 0
    for i in range(table.shape[1]):
        found += square(table[row, i])
    return found


@numba.njit(cache=True)
def total(table):
    found = square(1)
    for row in range(table.shape[0]):
        found += row_total(table, row)
    return found


print(total(np.arange(6).reshape(2, 3)), sum(total.stats.cache_hits.values()))
"""


def test_parts_of_parts_run_and_load_from_the_cache(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    runs = [subprocess.run([sys.executable, script], env=env, capture_output=True, text=True) for _ in range(2)]
    assert [run.stdout.split() for run in runs] == [["56", "0"], ["56", "1"]]
