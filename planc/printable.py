"""Text from files as a terminal or a page may show it: nothing in it moves the cursor, speaks to the terminal or turns the
reading direction.

Names in models, plans and tables are written by others. A name may hold ESC and OSC sequences, which a terminal obeys,
or bidirectional controls, which let text read as something else (Boucher and Anderson, "Trojan Source", 2021).
"""

import unicodedata

_KEPT = "\n\t"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls, formats (bidirectional ones among them), lone surrogates, unassigned characters, other line ends."""


def printable(text: str) -> str:
    """`text` with every character that is no glyph, space, tab or line feed as its escape: `\\x1b`, `\\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _KEPT or unicodedata.category(c) not in _HIDDEN else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
