"""What the documentation says is so: links lead somewhere, commands exist with their options, messages are raised."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import planc
from planc.cli.main import all_commands, app

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402 - of docs/, which is no package
import messages  # noqa: E402

GENERATED = {"plan-format.md", "commands.md", "messages.md"}
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name not in GENERATED and "_build" not in path.parts
)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(line.lstrip("#")) for line in prose(path.read_text()).splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists() or found.name in GENERATED, target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def shell_lines(page: Path) -> Iterator[str]:
    """Command lines of a page: those of indented blocks and of fences without a language or with a shell's."""
    fence: str | None = None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
            continue
        if (fence is None and line.startswith("    ")) or fence in ("", "sh", "bash", "console"):
            yield line.strip()


def commands(program: str) -> list[tuple[str, list[str]]]:
    """(page, words) of every use of a program in the pages, comments and environment left away."""
    found = []
    for page in PAGES:
        for line in shell_lines(page):
            text = re.split(r"\s#", line)[0].strip()
            if not re.match(rf"([A-Z_]+=\S+\s+)*({program})(\s|$)", text) or "…" in text or "..." in text:
                continue
            words = [word for word in shlex.split(text) if not re.match(r"[A-Z_]+=", word)]
            if "|" in "".join(re.findall(r"\S*\|\S*", text)) or any(word[0] in "[{<" for word in words):
                continue  # a grammar, not a line to type
            found.append((names(page), words))
    return found


@pytest.mark.parametrize(
    ("page", "words"), commands("planc"), ids=lambda value: value if isinstance(value, str) else ""
)
def test_commands_of_planc_parse(page: str, words: list[str]) -> None:
    """Parsed by the command itself, which is not run."""
    known = dict(all_commands())
    rest = words[1:]
    if not rest or rest[0].startswith("-"):
        assert rest in ([], ["--version"], ["-h"], ["--help"])
        return
    name = " ".join(rest[:2]) if " ".join(rest[:2]) in known else rest[0]
    assert name in known, f"{page}: planc {name}"
    command = known[name]
    with command.make_context(name, rest[len(name.split()) :]):
        pass


def test_commands_are_found() -> None:
    assert len(commands("planc")) > 40


@pytest.mark.parametrize(("page", "words"), commands("make"), ids=lambda value: value if isinstance(value, str) else "")
def test_targets_of_make_exist(page: str, words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for word in words[1:]:
        assert word in targets or "=" in word, page


def test_extras_and_scripts_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        for named in re.findall(r"planc\[([a-z,]+)\]", page.read_text()):
            assert set(named.split(",")) <= extras.keys(), names(page)
    for page, words in commands("python3?"):
        if words[1:] and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), (page, words)


def python_blocks() -> list[tuple[str, str]]:
    fence = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
    return [(names(page), block) for page in PAGES for block in fence.findall(page.read_text())]


@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda value: value if "\n" not in value else "")
def test_python_blocks_name_what_there_is(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("planc."):
            code = f"from {node.module} import {', '.join(alias.name for alias in node.names)}"
            exec(compile(code, page, "exec"), {})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "planc":
            assert node.attr in {*planc.__all__, "torch"}, page


def shorter(block: str) -> str:
    """The block with a shorter search, and the loss of the first step kept."""
    text = block.replace("time_limit=10", "time_limit=2")
    return text.replace("    print(float(loss))", "    first = globals().setdefault('first', float(loss))")


@pytest.mark.slow
def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its PyTorch half, block after block."""
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = [block for page, block in python_blocks() if page == "docs/tutorial.md"]
    space: dict[str, object] = {}
    for block in blocks[:3]:
        exec(compile(shorter(block), "docs/tutorial.md", "exec"), space)
    assert isinstance(space["loss"], torch.Tensor)
    with torch.no_grad():  # step.sync brought the trained state back: it is better than the first step's loss
        again = space["loss_fn"](space["model"](space["x"]), space["y"])  # type: ignore[operator]
    assert float(again) < float(space["first"])  # type: ignore[arg-type]


@pytest.mark.parametrize("heading", messages.headings())
def test_messages_of_troubleshooting_are_raised_and_tested(heading: str) -> None:
    """Each is part of a message in the source that some test sees."""
    found = messages.explained(heading)
    assert found, "no such message in the source"
    assert any(messages.tests_of(message) for message in found), [message.text for message in found]


def test_recorded_tests_exist() -> None:
    """Names of tests in `messages.json` are of functions that are there."""
    for tests in messages._seen().values():
        for test in tests:
            path, _, function = test.partition("::")
            assert function.rpartition("::")[2] in (ROOT / path).read_text(), test


def test_every_command_is_in_the_reference() -> None:
    page = generate.commands_page()
    for name, command in all_commands():
        assert f"\n## {name}\n" in page
        for parameter in command.params:
            assert all(f"`{flag}`" in page for flag in parameter.opts if flag.startswith("--") and flag != "--help")
    assert app.info.name == "planc"


def test_every_field_of_a_plan_is_in_the_reference() -> None:
    page = generate.plan_format_page()
    fields = re.findall(r"^    (\w+): ", (ROOT / "planc/plan/plan.py").read_text(), re.M)
    assert len(fields) > 60
    assert all(f"| `{field}` |" in page for field in fields)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    arguments = [
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(tmp_path / "trees"),
        "docs",
        str(tmp_path / "site"),
    ]
    done = subprocess.run([sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("tutorial.html", "reference/python.html", "reference/messages.html"):
        assert "planc" in (tmp_path / "site" / page).read_text()


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert "`planc zoo list` / `build`" in text
    for name, _ in all_commands():
        assert f"`planc {name}`" in text or name == "zoo build", name
