"""`planc completion`: scripts that a real shell reads and completes with."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from planc.cli.main import all_commands

Planc = Callable[..., tuple[int, str, str]]
CASES = [
    (("com",), {"compile", "compare", "completion"}, True),
    (("compile", "--bu"), {"--budget"}, True),
    (("zoo", ""), {"list", "build"}, True),
    (("zoo", "build", "resnet1"), {"resnet18", "resnet101", "resnet152"}, True),
    (("compile", "m.onnx", "--solver", "mi"), {"mip"}, True),
    (("compile", "m.onnx", "--device", "tit"), {"titan-x-maxwell"}, True),
    (("completion", ""), {"bash", "zsh", "fish"}, False),
]
"""Words typed, what is offered, and whether nothing else is."""


@pytest.fixture
def script(planc: Planc, tmp_path: Path) -> Callable[[str], Path]:
    """The script of a shell, as a file."""

    def make(shell: str) -> Path:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        code, out, err = planc("completion", shell)
        assert (code, err) == (0, "")
        path = tmp_path / f"planc.{shell}"
        path.write_text(out)
        return path

    return make


def test_bash(script: Callable[[str], Path]) -> None:
    program = f"source {script('bash')}\n"
    for words, _, _ in CASES:
        typed = " ".join(f"'{word}'" for word in ("planc", *words))
        program += f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; COMPREPLY=(); _planc; echo "${{COMPREPLY[*]}}"\n'
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for (words, offered, _), line in zip(CASES, done.stdout.splitlines(), strict=True):
        assert set(line.split()) == offered, words


def test_fish(script: Callable[[str], Path], tmp_path: Path) -> None:
    path = script("fish")
    lines = "; echo ----; ".join(f"complete -C 'planc {' '.join(words)}'" for words, _, _ in CASES)
    command = ["fish", "--no-config", "-c", f"source {path}; {lines}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (words, offered, alone), part in zip(CASES, done.stdout.split("----"), strict=True):
        found = {line.split("\t")[0] for line in part.strip().splitlines()}
        assert offered <= found, words
        assert not alone or found == offered, words


def test_zsh(script: Callable[[str], Path]) -> None:
    """Read by zsh as it would be at a prompt; completing itself needs a terminal."""
    path = script("zsh")
    program = f"autoload -Uz compinit; compinit -u -D; source {path}; print $_comps[planc]"
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("_planc", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_in_the_script(planc: Planc, shell: str) -> None:
    _, out, _ = planc("completion", shell)
    for name, command in all_commands():
        assert name.split()[-1] in out
        flags = [f for p in command.params if p.param_type_name == "option" for f in p.opts if f != "--help"]
        for flag in flags:
            assert (f"-l {flag[2:]} " if shell == "fish" and flag.startswith("--") else flag) in out


def test_an_unknown_shell_is_refused(planc: Planc) -> None:
    code, out, err = planc("completion", "tcsh")
    assert (code, out) == (2, "")
    assert "bash" in err
