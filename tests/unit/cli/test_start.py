"""A command imports what it needs and no more: heavy libraries would be most of the time that a small plan takes."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest

from planc.cli.main import _COMMANDS

HEAVY = {"cuda", "networkx", "numba", "onnxruntime", "ortools", "torch"}


def imported(*arguments: str) -> set[str]:
    """Modules that `planc ARGUMENTS` has imported by the time it ends."""
    code = (
        "import sys, contextlib, io\n"
        "from planc.cli.main import app\nfrom planc.errors import PlancError\n"
        "with contextlib.suppress(SystemExit, PlancError), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    app({list(arguments)!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_no_help_page_imports_a_library_of_numbers() -> None:
    """All pages in one process: none of them imports what the commands work with."""
    names = [*_COMMANDS, "zoo list", "zoo build"]
    code = "import sys, contextlib, io\nfrom planc.cli.main import app\n"
    code += (
        f"for name in {names!r}:\n with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
    )
    code += "  app([*name.split(), '--help'])\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = set(done.stdout.split())
    assert not found & {*HEAVY, "numpy", "onnx"}
    assert "typer" in found


@pytest.mark.parametrize("words", ["verify none.json", "grad none.onnx --loss cross-entropy -o never-made.onnx"])
def test_commands_that_neither_plan_nor_run_import_no_heavy_library(words: str) -> None:
    """They have what they work with by the time they miss their file."""
    found = imported(*words.split())
    assert not found & HEAVY
    assert {"typer", "onnx"} <= found


@pytest.mark.parametrize("name", ["", "zoo"])
def test_lists_of_commands_are_not_cut(planc: Callable[..., tuple[int, str, str]], name: str) -> None:
    listed = planc(*name.split(), "--help")[1].partition("Commands:")[2]
    assert listed
    assert "..." not in listed


def test_the_package_imports_what_it_offers_when_asked() -> None:
    code = "import sys, planc; before = 'onnx' in sys.modules; planc.Plan, planc.compile; print(before, planc.__all__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("False ['Plan', 'compare', 'compile', 'estimate', 'load'")


def test_version_short_help_and_misspelt_commands(planc: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = planc("--version")
    assert (code, out) == (0, f"planc {version('planc')}\n")
    code, out, _ = planc("-h")
    assert code == 0
    assert all(len(line) <= 80 and not line.endswith("...") for line in out.splitlines()[1:])
    code, _, err = planc("complie")
    assert (code, "unknown command 'complie': did you mean 'compile'?" in err) == (2, True)


def test_the_help_page_imports_no_command() -> None:
    code = "import sys; sys.argv = ['planc', '--help']\nfrom planc.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('onnx', 'onnxruntime', 'numpy', 'ortools') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
