"""Where the models of plans and cost tables lie that were written into other folders.

A plan names its model's file, and is followed to its own folder only: it may come from anywhere. What planc itself noted on
this machine, it trusts: `compile train.onnx -o elsewhere/plan.json` is followed by `run elsewhere/plan.json`.
"""

import os
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

from planc.files import atomic_write, read_file

_LONGEST = 1 << 14


def remember_model(model: Path, written: Path, content_hash: str) -> None:
    """Note where a model lies, if that is not beside the plan or table `written`. Where it cannot be noted, nothing is."""
    if os.path.realpath(model.parent) == os.path.realpath(written.parent):
        return
    with suppress(OSError):
        path = _note(content_hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, os.fsencode(os.path.realpath(model)))


def known_model(content_hash: str) -> Path | None:
    """Where the model of that content hash was, if a file is there still."""
    if not content_hash.isalnum():
        return None
    try:
        path = Path(os.fsdecode(read_file(_note(content_hash), _LONGEST)))
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


def _note(content_hash: str) -> Path:
    given = os.environ.get("PLANC_CACHE_DIR")
    return (Path(given) if given else user_cache_path("planc")) / "models" / content_hash
