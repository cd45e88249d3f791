"""docs/training.md tells what the code does."""

import re
from pathlib import Path
from typing import get_args

from planc.training.optimizers import Kind
from planc.training.prepare.bodies import BODIES
from planc.training.prepare.losses import LOSSES
from planc.training.rules import GRADIENTS

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text()


def test_the_page_lists_every_rule_and_no_other() -> None:
    table = PAGE[PAGE.index("| family | operators |") : PAGE.index("Any other operator")]
    assert set(re.findall(r"\b[A-Z]\w+", table)) == set(GRADIENTS)


def test_the_page_lists_every_body_and_no_other() -> None:
    table = PAGE[PAGE.index("| written out by planc | as |") : PAGE.index("ONNX's own bodies serve")]
    listed = {
        name
        for line in table.splitlines()[2:]
        for name in re.findall(r"\b[A-Z]\w+", line.split("|")[1:2][0] if "|" in line else "")
    }
    assert listed == set(BODIES) - set(GRADIENTS)


def test_the_page_lists_every_loss_and_optimizer() -> None:
    for name in (*LOSSES, *get_args(Kind)):
        assert f"`{name}`" in PAGE
