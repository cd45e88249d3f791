"""Every file of examples/ runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAYS = {
    "compile_and_run": "violations: ()",
    "own_policy": "own_policy:LongestIdle:",
    "own_gradient_rule": "loss",
    "pytorch": "loss",
    "digits_resnet": "the same bits after an interrupt",
    "char_gpt": "the same bits after an interrupt",
    "accelerate_loop": "evaluated under a plan",
}
SHORTER = {"digits_resnet": ["--steps", "6"], "char_gpt": ["--steps", "4"]}
"""What the finished examples are told, to take seconds rather than minutes."""
NEEDS = {"digits_resnet": "sklearn", "accelerate_loop": "accelerate"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem in SAYS], ids=lambda path: path.stem)
def test_an_example_runs(path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    command = [sys.executable, str(path), *SHORTER.get(path.stem, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout


def test_the_short_examples_are_there() -> None:
    assert {path.stem for path in EXAMPLES} >= SAYS.keys()
