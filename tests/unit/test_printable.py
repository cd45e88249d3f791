"""Nothing that a file says moves the cursor, speaks to the terminal or turns the reading direction."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planc.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1 forward", "conv1 forward"),
        ("größe 层", "größe 层"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb", "a\\x0db"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_only_glyphs_spaces_tabs_and_line_feeds_are_left(text: str) -> None:
    shown = printable(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] not in "C" for c in shown)
    assert printable(shown) == shown
