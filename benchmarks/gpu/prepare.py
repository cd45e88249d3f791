"""Makes a folder of packages on a GPU machine without a network: planc from its source tree, wheels, and ONNX
Runtime's CUDA provider cut to one GPU generation (folder `ort`, a set of .xz files).

    python3 benchmarks/gpu/prepare.py CARRIED SITE      then: PYTHONPATH=SITE python3 ...
"""

import lzma
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpack(bundle: Path, site: Path) -> None:
    """Decompress every file of the provider's bundle into place."""
    for packed in sorted(bundle.glob("*.xz")):
        target = site / packed.name.removesuffix(".xz").replace("__SLASH__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.decompress(packed.read_bytes()))


def register(site: Path) -> None:
    """Make the source tree importable, its entry points and version included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = site / f"planc-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: planc\nVersion: {project['version']}\n")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    text = "".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in group.items()) for name, group in groups.items())
    (info / "entry_points.txt").write_text(text)
    for package in (ROOT / "planc", ROOT / "solvers" / "planc_solvers", ROOT / "models" / "planc_models"):
        link = site / package.name
        if not link.exists():
            link.symlink_to(package)


def main() -> None:
    """Fill the site folder; what is there already is kept."""
    carried, site = Path(sys.argv[1]), Path(sys.argv[2])
    site.mkdir(parents=True, exist_ok=True)
    if not (site / "onnxruntime").exists():
        unpack(carried / "ort", site)
    wheels = sorted(str(wheel) for wheel in carried.glob("*.whl"))
    if wheels:
        flags = ["-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", *flags, *wheels], check=True)
    register(site)


if __name__ == "__main__":
    main()
