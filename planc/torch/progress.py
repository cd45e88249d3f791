"""Progress of a compilation on the terminal."""

import sys

_WIDTH = 79


def show_progress(done: int, total: int, what: str) -> None:
    """One line on standard error that is written over until all is done: `on_progress` of `compile_step`.

    Where standard error is no terminal, each stage gets a line and the layers between are left out.
    """
    text = f"planc: {what} {done}/{total}"[:_WIDTH]
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{text:<{_WIDTH}}", end=end, file=sys.stderr, flush=True)
    elif done in (0, total):
        print(text, file=sys.stderr, flush=True)
