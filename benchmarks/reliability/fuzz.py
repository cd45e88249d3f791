"""Coverage-guided fuzzing (atheris) of everything that reads a file: nothing but typed errors may come out.

    PYTHONPATH=.:tests python -m benchmarks.reliability.fuzz buffers folder -max_total_time=60

runs one target alone, with libFuzzer's options.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.count import Count

_SECONDS = 3
_PLACE = Path("/dev/shm")


def _readers() -> dict[str, tuple[str, Callable[[Path], object]]]:
    """For each target the file of `hostile.sound` that it begins with, and what reads it."""
    from planc.costs.store import read_costs
    from planc.importer.import_model import import_model
    from planc.instances.instance import read_instance
    from planc.packing.csv import read_buffers
    from planc.plan.plan import Plan
    from planc.runtime.state import read_checkpoint

    return {
        "buffers": ("buffers.csv", read_buffers),
        "costs": ("costs.json", read_costs),
        "instances": ("graph.json", read_instance),
        "models": ("train.onnx", import_model),
        "plans": ("train.plan.json", Plan.load),
        "states": ("state.safetensors", read_checkpoint),
    }


def fuzzed(scale: int) -> dict[str, Count]:
    """Each reader for three seconds times the scale; nothing where atheris is not installed."""
    if importlib.util.find_spec("atheris") is None:
        return {}
    count = Count()
    with tempfile.TemporaryDirectory() as name:
        _corpus(Path(name) / "sound")
        for target, (file, _) in _readers().items():
            corpus = Path(name) / target
            corpus.mkdir()
            shutil.copy(Path(name) / "sound" / file, corpus)
            arguments = [str(corpus), f"-max_total_time={_SECONDS * scale}", "-print_final_stats=1", "-timeout=20"]
            arguments += ["-rss_limit_mb=4096", f"-artifact_prefix={name}/", "-max_len=200000"]
            command = [sys.executable, "-m", "benchmarks.reliability.fuzz", target, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            runs = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
            count.tried += int(runs[1]) if runs else 0
            if done.returncode or runs is None:
                count.failed += 1
                count.failures.append(f"{target}: {done.stderr[-1500:]}")
    count.notes["readers"], count.notes["seconds of each"] = len(_readers()), _SECONDS * scale
    return {"files fuzzed": count}


def _corpus(folder: Path) -> None:
    import json

    from benchmarks.reliability.fields import INSTANCE
    from benchmarks.reliability.hostile import sound

    folder.mkdir()
    sound(folder)
    (folder / "graph.json").write_text(json.dumps(INSTANCE))


def main() -> None:
    """Fuzz the target named first on the command line."""
    import atheris

    target = sys.argv.pop(1)
    with atheris.instrument_imports(include=["planc"]):
        _, read = _readers()[target]
        from planc.errors import PlancError
    _PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_PLACE) as name:
        path = Path(name) / "file"

        def once(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read(path)
            except PlancError:
                return

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
