"""Every message of a user error: where it is raised, its exit code, and the tests that expect it.

Messages are found in the source: the text of each raised error, with `…` where a value goes in. Which tests see one is
recorded by running them (`tests/support/messages.py`).
"""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planc import errors
from planc.packing.buffers import PackingError

REPOSITORY = Path(__file__).resolve().parents[1]
SEEN = Path(__file__).parent / "reference" / "messages.json"
SOURCES = ("planc", "solvers/planc_solvers", "models/planc_models")
HOLE = "…"
_SPELLED = 14
"""Characters of a message that a test spells out when it expects that message."""

_ENOUGH = 9
"""Characters of its own that a message has at least."""


@dataclass(frozen=True, order=True)
class Message:
    """A message with `…` for values, the error that carries it, and the module that raises it."""

    error: str
    text: str
    module: str

    @property
    def key(self) -> str:
        """What the message is called in `reference/messages.json`."""
        return f"{self.error} | {self.module} | {self.text}"

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return int(_kinds()[self.error].exit_code)

    @property
    def pieces(self) -> list[str]:
        """The message's own words, between the values."""
        return [piece for piece in self.text.split(HOLE) if piece.strip()]


@cache
def _kinds() -> dict[str, type[errors.PlancError]]:
    """Every kind of user error, by name."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PlancError)]
    return {kind.__name__: kind for kind in (*found, PackingError)}


@cache
def messages() -> list[Message]:
    """Every message that planc, its solvers and its models raise, sorted by error and text."""
    kinds = set(_kinds())
    found: set[Message] = set()
    for source in SOURCES:
        for path in sorted((REPOSITORY / source).rglob("*.py")):
            module = path.relative_to(REPOSITORY).as_posix()
            found |= {Message(error, text, module) for error, text in _raised(ast.parse(path.read_text()), kinds)}
    return sorted(found)


def _raised(tree: ast.AST, kinds: set[str]) -> Iterator[tuple[str, str]]:
    for scope in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Module))]:
        texts = _texts(scope)
        for node in _own_nodes(scope):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                for text in _text(node.args[0], texts):
                    if len(text.replace(HOLE, "").strip()) >= _ENOUGH:
                        yield node.func.id, " ".join(text.split())


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What lies in a scope and in no function inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from _own_nodes(child)


def _texts(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """What the names of a scope are set to: messages are often put together before they are raised."""
    found: defaultdict[str, list[ast.expr]] = defaultdict(list)
    for node in _own_nodes(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id].append(node.value)
    return found


def _text(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """The texts that an expression may be, values as holes."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for part in node.values:
            more = [str(part.value)] if isinstance(part, ast.Constant) else _hole(part, names)
            texts = [text + piece for text in texts for piece in more]
        return texts
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _text(node.left, names) for b in _text(node.right, names)]
    if isinstance(node, ast.IfExp):
        return _text(node.body, names) + _text(node.orelse, names)
    if isinstance(node, ast.Name) and 0 < len(names.get(node.id, [])) <= 3:
        return [text for value in names[node.id] for text in _text(value, {})]
    return [HOLE]


def _hole(part: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """A value inside a message: its words where they are written beside it, else a hole."""
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, (ast.IfExp, ast.Name)):
        texts = _text(part.value, names)
        return texts if len(texts) <= 3 else [HOLE]
    return [HOLE]


def found_among(known: list[Message], error: str, module: str, text: str) -> Message | None:
    """The message that `text` is, with its values taken out; the one with most words of its own where several are."""
    path, flat = module.replace(".", "/"), " ".join(text.split())
    fitting = [
        m
        for m in known
        if m.error == error
        and m.module.removesuffix(".py").removesuffix("/__init__").endswith(path)
        and re.fullmatch(".*".join(map(re.escape, m.text.split(HOLE))), flat, re.DOTALL)
    ]
    return max(fitting, key=lambda m: len(m.text.replace(HOLE, "")), default=None)


@cache
def _seen() -> dict[str, list[str]]:
    """The tests that saw a message, as `tests/support/messages.py` recorded them."""
    found: dict[str, list[str]] = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    return found


@cache
def _spelled() -> list[tuple[str, str]]:
    """(file, text) of every string in the tests that is long enough to be part of a message."""
    paths = [p for p in sorted((REPOSITORY / "tests").rglob("test_*.py")) if p.name != "test_pages.py"]
    return [
        (path.relative_to(REPOSITORY).as_posix(), node.value)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.strip()) >= _SPELLED
    ]


def tests_of(message: Message) -> list[str]:
    """Tests that see the message: recorded ones, else those that spell out a part of it. These start other processes, of
    which nothing is recorded."""
    seen = [test for test in _seen().get(message.key, []) if (REPOSITORY / test.partition("::")[0]).exists()]
    if seen:
        return seen
    return sorted({file for file, text in _spelled() if any(text.strip() in piece for piece in message.pieces)})


def headings() -> list[str]:
    """The messages that troubleshooting explains, `…` where a value goes in."""
    parts = (REPOSITORY / "docs" / "troubleshooting.md").read_text().split("\n## ")
    found = [h for part in parts[1:] if not part.startswith("Slow") for h in re.findall(r"^### (.+)$", part, re.M)]
    return [heading for heading in found if heading[0].islower() or HOLE in heading or heading.startswith("CUDA")]


def explained(heading: str) -> list[Message]:
    """The messages of the source that a heading is part of."""
    pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in heading.split(HOLE) if piece.strip()))
    return [message for message in messages() if pattern.search(message.text)]


def messages_page() -> str:
    """The page: a table for each kind of error."""
    by_error: defaultdict[str, list[Message]] = defaultdict(list)
    for message in messages():
        by_error[message.error].append(message)
    total = sum(map(len, by_error.values()))
    tested = sum(bool(tests_of(message)) for found in by_error.values() for message in found)
    parts = [
        "# Every message",
        "Made from the source: the text of every error that a user can meet, `…` where a value goes in. The last column "
        f"names a test in which it is raised; {tested} of {total} have one. "
        "[Troubleshooting](../troubleshooting.md) says what to do about the frequent ones.",
    ]
    rows = [f"| {_cell(h)} | `{next(t for m in explained(h) for t in tests_of(m))}` |" for h in headings()]
    parts.append("\n".join(["## Those that troubleshooting explains", "", "| message | test |", "|---|---|", *rows]))
    for error, found in by_error.items():
        about = (_kinds()[error].__doc__ or "").strip().splitlines()[0]
        rows = [f"| {_cell(m.text)} | `{m.module}` | {_test_cell(m)} |" for m in found]
        head = ["| message | raised in | test |", "|---|---|---|"]
        parts.append("\n".join([f"## {error}, exit code {found[0].exit_code}", "", about, "", *head, *rows]))
    return "\n\n".join(parts) + "\n"


def _test_cell(message: Message) -> str:
    found = tests_of(message)
    return "" if not found else f"`{found[0]}`" + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def _cell(text: str) -> str:
    return "`` " + text.replace("|", "\\|") + " ``"
