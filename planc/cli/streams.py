"""Standard streams: data on stdout whatever libraries print, and an exit code that says whether it arrived."""

import codecs
import errno
import os
import sys
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

from planc.errors import OutputError

_LOOKALIKES = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)), "▕": "|", "│": "|", "─": "-", "━": "-", "–": "-", "…": "...",
    "→": "->", "µ": "u", "×": "x", "≤": "<=", "“": '"', "”": '"', "²": "^2",
}  # fmt: skip
"""What stands for a character of planc's own where the terminal has none such."""

_PLAIN = "planc.plain"
"""Name of the way in which text is written that an encoding lacks: by lookalikes, else escaped."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_LOOKALIKES.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escaped), error.end


codecs.register_error(_PLAIN, _plain)


class _Data(FileIO):
    """Stdout's file. Raises OutputError when it takes no data; when its reader has left, nobody misses what follows, and
    the command goes on with what else it has to do."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            discard_data()
            return len(data)
        except OSError as error:
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror or error
            raise OutputError(f"stdout: the result cannot be written ({reason})") from error


def prepare_streams() -> None:
    """Make standard streams that every command can rely on.

    A stream that the caller has closed is opened on nothing, so that no other file gets its number: writing to stdout
    fails then, and what goes to stderr is lost. What a stream's encoding lacks is written by lookalikes, or escaped.
    What native libraries print (HiGHS does, whatever its options say) goes to stderr; Python keeps stdout. Where a
    caller has replaced Python's stdout, there is no file to keep and it stays.
    """
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    own = sys.__stdout__
    if sys.stdout is None or sys.stdout is own:
        encoding = "utf-8" if own is None else own.encoding
        if own is not None:
            own.flush()
        data = os.dup(1)
        os.dup2(2, 1)
        buffer = BufferedWriter(_Data(data, "w"))
        sys.stdout = TextIOWrapper(buffer, encoding, _PLAIN, line_buffering=os.isatty(data))
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(errors=_PLAIN)


def discard_data() -> None:
    """Let what is still to be written to stdout go nowhere, so that the interpreter's end does not complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
