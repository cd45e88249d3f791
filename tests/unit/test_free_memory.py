"""Memory that may still be taken, from what Linux says in its files."""

import resource
from pathlib import Path

import pytest

from planc.free_memory import free_memory

GIB = 1 << 30


def _machine(folder: Path, groups: str, files: dict[str, str], available: int = 16 * GIB) -> tuple[Path, Path]:
    """/proc and /sys/fs/cgroup of a machine, the process in such groups."""
    proc, tree = folder / "proc", folder / "cgroup"
    for path, text in {
        proc / "meminfo": f"MemTotal:  99999999 kB\nMemAvailable:   {available // 1024} kB\n",
        proc / "self/cgroup": groups,
        proc / "self/statm": "1000 500 100 1 0 300 0\n",
        **{tree / name: text for name, text in files.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, tree


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    nothing = {"memory.max": "max\n", "memory.current": f"{GIB}\n"}
    assert free_memory(*_machine(tmp_path, "0::/\n", nothing)) == 16 * GIB
    assert free_memory(tmp_path / "none", tmp_path / "none") == 0
    assert free_memory() > 0


@pytest.mark.parametrize("inner", [None, 2 * GIB, 8 * GIB])
def test_a_container_has_what_the_tightest_group_around_it_leaves(tmp_path: Path, inner: int | None) -> None:
    files = {
        "a/memory.max": f"{4 * GIB}\n",
        "a/memory.current": f"{GIB}\n",
        "a/memory.stat": f"anon {GIB // 2}\nfile 7\ninactive_file {GIB // 4}\nactive_file 5\n",
        "a/b/memory.max": f"{inner or 'max'}\n",
        "a/b/memory.current": "0\n",
    }
    want = min(4 * GIB - GIB + GIB // 4, inner or 16 * GIB)
    assert free_memory(*_machine(tmp_path, "0::/a/b\n", files)) == want


def test_so_it_is_with_groups_of_the_first_version(tmp_path: Path) -> None:
    files = {
        "memory/c/memory.limit_in_bytes": f"{3 * GIB}\n",
        "memory/c/memory.usage_in_bytes": f"{2 * GIB}\n",
        "memory/c/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        "memory/memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
        "memory/memory.usage_in_bytes": "0\n",
        "cpu/c/memory.limit_in_bytes": "1\n",
        "cpu/c/memory.usage_in_bytes": "0\n",
    }
    groups = "5:cpu,cpuacct:/c\n4:memory:/c\n0::/c\n"
    assert free_memory(*_machine(tmp_path, groups, files)) == 2 * GIB


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {"memory.max": "100\n", "memory.current": "200\n"}
    assert free_memory(*_machine(tmp_path, "0::/elsewhere\n", files)) == 0


def test_the_process_may_have_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    assert free_memory(*_machine(tmp_path, "0::/\n", {})) == GIB - 1000 * resource.getpagesize()
