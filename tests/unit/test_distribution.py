"""What a wheel holds and says of itself."""

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_exactly_three_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"planc", "planc_models", "planc_solvers"}
    for package in ("planc", "planc_models", "planc_solvers"):
        assert f"{package}/__init__.py" in wheel.namelist()
        assert f"{package}/py.typed" in wheel.namelist()


def test_files_that_are_no_code_are_in_it(wheel: zipfile.ZipFile) -> None:
    found = [path for name in ("report/templates", "kernels/sources") for path in (ROOT / "planc" / name).iterdir()]
    names = {path.relative_to(ROOT).as_posix() for path in found if path.suffix not in ("", ".pyc")}
    assert len(names) > 8
    assert names <= set(wheel.namelist())


def test_its_metadata(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    text = email.message_from_bytes(wheel.read(name))
    assert text["Name"] == "planc"
    assert {"torch", "cuda", "docs", "examples", "test"} == set(text.get_all("Provides-Extra") or ())
    torch = [line for line in text.get_all("Requires-Dist") or () if re.match(r"torch\b", line)]
    assert torch
    assert all("==" not in line.partition(";")[0] for line in torch)


def test_the_citation_names_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {PROJECT['version']}\n" in text
    assert text.startswith("cff-version: 1.2.0\n")


def test_no_page_sends_anyone_to_an_index_that_planc_is_not_on() -> None:
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        assert not re.search(r"pip install '?planc", path.read_text()), path.name


def test_links_are_absolute_once_there_is_an_address() -> None:
    """An index shows README.md without the files beside it."""
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert bool(re.match(r"https?://", link)) == bool(PROJECT.get("urls")), link


def test_ci_tries_the_ends_of_the_range_of_torch() -> None:
    (wanted,) = PROJECT["optional-dependencies"]["torch"]
    assert re.fullmatch(r"torch>=[0-9.]+,<[0-9.]+", wanted)  # what `.ci/torch_ends` takes apart
    assert ".ci/torch_ends" in (ROOT / ".ci" / "run").read_text()
    line = re.search(r"^TORCH \?= torch==(\d+)\.(\d+)\.\*$", (ROOT / "Makefile").read_text(), re.M)
    assert line is not None
    low, high = (tuple(map(int, part.split("."))) for part in re.findall(r"[0-9.]+", wanted))
    assert low <= (int(line[1]), int(line[2])) < high
