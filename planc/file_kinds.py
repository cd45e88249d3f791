"""What a file is, by its first bytes, for messages: who gives `planc run` a model hears that it is one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from planc.files import opened

_HEAD = 4096
_JSON = re.compile(rb"\s*\{")


def _has_keys(*keys: bytes) -> Callable[[bytes], bool]:
    """Whether a head is JSON that names all of the keys."""
    return lambda head: bool(_JSON.match(head)) and all(b'"' + key + b'"' in head for key in keys)


def _is_onnx(head: bytes) -> bool:
    """A protocol buffer that begins with an IR version, and whose next field is one that ONNX models have."""
    return (
        len(head) > 2 and head[0] == 0x08 and head[1] < 0x80 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    )


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes that hold the length of a header, then the header."""
    return len(head) > 9 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 1 << 32


def _is_buffers(head: bytes) -> bool:
    line = head.partition(b"\n")[0].lower()
    return b"," in line and all(name in line for name in (b"lower", b"upper", b"size"))


@dataclass(frozen=True)
class _Kind:
    """How heads of such files look, what they are called, and the command that takes one, if any."""

    matches: Callable[[bytes], bool]
    name: str
    command: str = ""


_KINDS = (
    _Kind(lambda head: not head, "an empty file"),
    _Kind(_has_keys(b"planc", b"created"), "a plan", "planc inspect"),
    _Kind(_has_keys(b"model_hash", b"device"), "a cost table", "planc costs"),
    _Kind(_has_keys(b"nodes", b"edges"), "a graph instance", "planc solve"),
    _Kind(_is_onnx, "an ONNX model", "planc compile"),
    _Kind(_is_safetensors, "a safetensors file"),
    _Kind(_is_buffers, "a table of buffers", "planc pack"),
    _Kind(lambda head: head[:4] == b"PK\3\4", "a zip archive (torch.save writes such)"),
    _Kind(lambda head: head[:2] in (b"\x80\2", b"\x80\4", b"\x80\5"), "a pickle"),
    _Kind(lambda head: head[:2] == b"\x1f\x8b", "a gzip file"),
    _Kind(lambda head: head.lstrip()[:9].lower() in (b"<!doctype", b"<html>"), "an HTML page"),
)
"""Asked in this order; the first that matches is it."""


def not_the(wanted: str, path: Path, reason: object) -> str:
    """Why a file cannot be read as what is wanted: because it is of another kind, or else the reason."""
    kind = _kind_of(path)
    if kind is None or kind.name.endswith(f" {wanted}"):
        return f"{path}: not a readable {wanted} ({reason})"
    takes = f": `{kind.command} {path}` takes it" if kind.command else ""
    return f"{path} is {kind.name}, not {'an' if wanted[0] in 'aeioAEIO' else 'a'} {wanted}{takes}"


def _kind_of(path: Path) -> _Kind | None:
    """The kind of a file, None where that is not known or the file cannot be read."""
    try:
        with opened(path) as stream:
            head = stream.read(_HEAD)
    except OSError:
        return None
    return next((kind for kind in _KINDS if kind.matches(head)), None)
