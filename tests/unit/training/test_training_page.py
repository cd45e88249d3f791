"""docs/training.md tells what the code does."""

import re
from pathlib import Path
from typing import get_args

from planc.training.optimizers import Kind
from planc.training.prepare.losses import LOSSES
from planc.training.rules import GRADIENTS

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text()


def test_the_page_lists_every_rule_and_no_other() -> None:
    table = PAGE[PAGE.index("| family | operators |") : PAGE.index("Any other operator")]
    listed = set(re.findall(r"\b[A-Z]\w+", table)) - {"Einsum"}
    assert listed == set(GRADIENTS)


def test_the_page_lists_every_loss_and_optimizer() -> None:
    for name in (*LOSSES, *get_args(Kind)):
        assert f"`{name}`" in PAGE
