"""Disks that are full, read-only, or vanish while something is read from or written to them."""

import ctypes
import json
import os
import random
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from benchmarks.reliability.count import Count
from benchmarks.reliability.hostile import sound
from benchmarks.reliability.limits import in_child, run_here
from planc.costs.store import read_costs
from planc.errors import PlancError
from planc.files import _TEMPORARY
from planc.importer.import_model import import_model
from planc.plan.plan import Plan
from planc.runtime.state import read_state

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_READ_ONLY, _REMOUNT = 1, 32

_COMMANDS: dict[str, tuple[str, ...]] = {
    "compile": ("compile", "train.onnx", "--costs", "costs.json", "--time-limit", "0.3", "-o", "disk/plan.json"),
    "zoo": ("zoo", "build", "mlp", "-o", "disk/model.onnx"),
    "grad": ("grad", "forward.onnx", "--loss", "cross-entropy", "-o", "disk/model.onnx"),
    "save": ("run", "train.plan.json", "--steps", "2", "--save-state", "disk/state.safetensors"),
    "swap": ("run", "train.plan.json", "--steps", "20", "--host-tier", "file:disk"),
    "page": ("inspect", "train.plan.json", "--html", "disk/page.html", "--trace", "disk/trace.json"),
    "pack": ("pack", "buffers.csv", "--time-limit", "0.2", "-o", "disk/packed.csv"),
    "profile": ("profile", "train.onnx", "-o", "disk/costs.json"),
    "cache": ("compile", "train.onnx", "--budget", "90%", "--time-limit", "0.3", "-o", "plan.json"),
    "read": ("run", "disk/train.plan.json", "--model", "disk/train.onnx", "--steps", "2"),
}  # fmt: skip
"""What writes to the folder `disk`, `cache` to what it keeps there; the last reads from it."""

_FAULTS = ("full", "fills up", "read-only", "vanishes")


def disks(scale: int) -> dict[str, Count]:
    """Each command with each fault, `scale` times: a typed error or the result, never a torn file, nothing left behind.

    On a small file system of its own where the system lets a process mount one; else nothing is counted.
    """
    count = Count()
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        sound(whole)
        for serial in range(scale):
            for title in _COMMANDS:
                for fault in _FAULTS:
                    here = Path(shutil.copytree(whole, Path(name) / "here"))
                    rng = random.Random(f"{title} {fault} {serial}")
                    found = in_child(lambda: _tried(here, title, fault, rng))  # noqa: B023 - called at once
                    if found == _NOT_HERE:
                        return {}
                    count.add(None if found is None else f"{title}, {fault}, {serial}: {found}")
                    shutil.rmtree(here)
    return {"commands on broken disks": count}


_NOT_HERE = "no file system can be mounted"


def _tried(folder: Path, title: str, fault: str, rng: random.Random) -> str | None:
    disk = folder / "disk"
    disk.mkdir()
    if not _mounted(disk, rng.choice((16, 64, 256)) if fault in ("full", "fills up") else 1 << 14):
        return _NOT_HERE
    before = _prepare(folder, disk, title, fault)
    os.environ["PLANC_CACHE_DIR"] = str(disk if title == "cache" else folder / "cache")
    if fault == "vanishes":
        threading.Timer(rng.uniform(0, 0.5), shutil.rmtree, (disk, True)).start()
    if fault == "fills up":
        threading.Timer(rng.uniform(0, 0.5), _fill, (disk,)).start()
    found = run_here(list(_COMMANDS[title]), folder)
    if found is not None and not found.endswith(" s"):
        return found
    return None if fault == "vanishes" else _torn(disk, before)


def _prepare(folder: Path, disk: Path, title: str, fault: str) -> dict[str, bytes]:
    """Put on the disk what is read from there, and old results that must stay whole."""
    if title == "read" and fault == "vanishes":
        for name in ("train.onnx", "train.plan.json"):
            shutil.copy(folder / name, disk / name)
    if fault == "full":
        _fill(disk)
    if fault == "read-only":
        _mount(b"none", disk, b"tmpfs", _READ_ONLY | _REMOUNT, b"")
    return {path.name: path.read_bytes() for path in disk.iterdir() if path.is_file()}


def _torn(disk: Path, before: dict[str, bytes]) -> str | None:
    """What of the results is neither absent nor whole, or lies there and should not."""
    for path in [path for path in disk.rglob("*") if path.is_file() and path.name != "filling"]:
        if path.name.endswith(_TEMPORARY):
            return f"{path.name} is left"
        if path.read_bytes() != before.get(path.name) and not _whole(path):
            return f"{path.name} is torn"
    return None


def _whole(path: Path) -> bool:
    try:
        if path.name.endswith(".onnx"):
            import_model(path)
        elif path.name == "plan.json":
            Plan.load(path)
        elif path.suffix == ".safetensors":
            read_state(path)
        elif path.name == "costs.json":
            read_costs(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
    except (PlancError, ValueError):
        return False
    return True


def _fill(disk: Path) -> None:
    """Leave no free block."""
    with (disk / "filling").open("ab", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"0" * 4096)


def _mounted(disk: Path, kib: int) -> bool:
    """Give the process a file system of its own at `disk`; whether the system lets it."""
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if library.unshare(_NEW_MOUNTS) and library.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    private = library.mount(b"none", b"/", None, 0x44000, None)  # what is mounted here stays here
    return not private and _mount(b"none", disk, b"tmpfs", 0, f"size={kib}k".encode())


def _mount(source: bytes, place: Path, kind: bytes, flags: int, options: bytes) -> bool:
    return not ctypes.CDLL(None).mount(source, os.fsencode(place), kind, flags, options)
