"""Which message of a user error is seen in which test.

    PLANC_MESSAGES=docs/reference/messages.json pytest

writes, for every message that was raised, the tests that saw it. `docs/messages.py` shows them.
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from planc.errors import PlancError

_FOLDERS = ("planc", "planc_solvers", "planc_models")
_KEPT = 2
"""Tests kept for a message."""


class Recorder:
    """A plug-in of pytest that notes each user error as it is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)

    def pytest_sessionstart(self) -> None:
        """Look at each error when it is made."""
        made = PlancError.__init__

        def init(error: PlancError, *arguments: Any) -> None:
            made(error, *arguments)
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_name == "__init__":
                frame = frame.f_back
            module = str(frame.f_globals.get("__name__"))
            if module.partition(".")[0] in _FOLDERS and arguments:
                test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].partition("[")[0]
                self.seen[type(error).__name__, module, str(arguments[0])].add(test)

        PlancError.__init__ = init  # type: ignore[method-assign]

    def pytest_sessionfinish(self) -> None:
        """Write what was seen, with values taken out of the texts, over what the file had of these messages."""
        sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
        from messages import found_among, messages  # the documentation's, not this module

        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        everything = messages()
        for (error, module, text), tests in self.seen.items():
            message = found_among(everything, error, module, text)
            if message is not None:
                kept = {*known.get(message.key, []), *tests} - {""}
                known[message.key] = sorted(kept)[:_KEPT]
        alive = {message.key for message in everything}
        kept_keys = {key: tests for key, tests in sorted(known.items()) if key in alive and tests}
        self.path.write_text(json.dumps(kept_keys, indent=1, ensure_ascii=False) + "\n")
