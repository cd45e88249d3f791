"""Where a loaded library keeps its pointer to a function of another library (64-bit ELF; System V ABI, chapters 4, 5)."""

import struct
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_RELOCATION, _SYMBOL_BYTES, _RELOCATIONS_WITH_ADDEND = struct.Struct("<QQq"), 24, 4
_POINTER_KINDS = {6, 7}
"""R_X86_64_GLOB_DAT and R_X86_64_JUMP_SLOT."""


def slots_of(library: Path, function: str) -> list[int]:
    """Addresses in this process at which the loaded `library` keeps pointers to `function`.

    Raises ValueError where it is not loaded or has none, OSError and struct.error where its file cannot be read.
    """
    base = _base(library)
    with library.open("rb") as file:
        header = file.read(64)
        (start,) = struct.unpack_from("<Q", header, 40)
        size, count = struct.unpack_from("<HH", header, 58)

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        table = read(start, size * count)
        sections = [_SECTION.unpack_from(table, size * i) for i in range(count)]
        found = []
        for section in sections:
            if section[1] == _RELOCATIONS_WITH_ADDEND and section[6]:
                symbols = sections[section[6]]
                names = sections[symbols[6]]
                texts = read(symbols[4], symbols[5]), read(names[4], names[5])
                found += _matching(read(section[4], section[5]), *texts, function)
    if not found:
        raise ValueError(f"{library.name} has no pointer to {function}")
    return [base + offset for offset in found]


def _matching(relocations: bytes, symbols: bytes, names: bytes, function: str) -> list[int]:
    wanted = function.encode() + b"\0"
    offsets = []
    for offset, info, _ in _RELOCATION.iter_unpack(relocations):
        if info & 0xFFFFFFFF in _POINTER_KINDS:
            (name,) = struct.unpack_from("<I", symbols, (info >> 32) * _SYMBOL_BYTES)
            if names.startswith(wanted, name):
                offsets.append(offset)
    return offsets


def _base(library: Path) -> int:
    real = str(library.resolve())
    starts = [
        int(line.split("-", 1)[0], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(real)
    ]
    if not starts:
        raise ValueError(f"{library.name} is not loaded")
    return min(starts)
