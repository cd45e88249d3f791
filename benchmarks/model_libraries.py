"""torchvision, timm, transformers and others that measurements need, in an environment of their own.

The libraries are installed, at the first run, into an environment on top of the one that runs the measurement.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "build" / "model-libraries"
INSIDE = "PLANC_MODEL_LIBRARIES"
_kept: list[object] = []
"""Registrations that last as long as their object."""


def enter(file: str) -> None:
    """Run `file` again, with its arguments, where the libraries are, and leave with its exit status; inside, go on."""
    if os.environ.get(INSIDE) != "1":
        command = [str(environment()), file, *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode)
    prepare_torchvision()


def environment() -> Path:
    """The Python of the environment, made if need be."""
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "done"
    if not done.exists():
        venv.create(ENVIRONMENT, with_pip=True, symlinks=True)
        folder = next((ENVIRONMENT / "lib").glob("python*/site-packages"))
        (folder / "base.pth").write_text(
            "".join(f"import site; site.addsitedir({p!r})\n" for p in sys.path if "site-packages" in p)
        )
        import torch

        pinned = ENVIRONMENT / "constraints.txt"
        pinned.write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
        listed = HERE / "coverage_cases" / "requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", pinned, "-r", listed], check=True)
        done.touch()
    return python


def prepare_torchvision() -> None:
    """torchvision's compiled operators need the torch build that they were made for; networks need their names only."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
