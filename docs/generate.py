"""Pages of the reference that are made from the code: the plan format, the commands, every message with its test.

    python docs/generate.py        # writes docs/reference/{plan-format,commands,messages}.md

`docs/conf.py` calls `write_pages`, and so the pages are never older than the code.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from planc.cli.main import all_commands
from planc.plan import plan as plan_module
from planc.plan.plan import FORMAT, Plan

REPOSITORY = Path(__file__).resolve().parents[1]


def write_pages(folder: Path) -> None:
    """Write every generated page to `folder`; a page that has not changed keeps its time stamp."""
    from messages import messages_page  # beside this file

    pages: dict[str, Callable[[], str]] = {
        "plan-format.md": plan_format_page,
        "commands.md": commands_page,
        "messages.md": messages_page,
    }
    for name, page in pages.items():
        path, text = folder / name, page()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# --- the plan format


def plan_format_page() -> str:
    """Every structure of a plan file with its fields, types and defaults, as `planc/plan/plan.py` has them."""
    about = inspect.getdoc(plan_module) or ""
    parts = [
        "# The plan format",
        f"A plan is one JSON object, format {FORMAT}. This page is made from the structures in `planc/plan/plan.py`; "
        "[`plan.schema.json`](../plan.schema.json) is the same as a JSON Schema. Unknown fields are ignored.",
        about,
        *(_struct_section(struct) for struct in _structs(Plan, [])),
    ]
    return "\n\n".join(parts) + "\n"


def _structs(kind: type[msgspec.Struct], seen: list[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """`kind` and every structure in its fields, in the order of first mention."""
    if kind not in seen:
        seen.append(kind)
        for hint in typing.get_type_hints(kind).values():
            for inner in _inside(hint):
                _structs(inner, seen)
    return seen


def _inside(hint: object) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in typing.get_args(hint):
        yield from _inside(part)


def _struct_section(kind: type[msgspec.Struct]) -> str:
    hints = typing.get_type_hints(kind)
    rows = [
        f"| `{field.name}` | {_type_name(hints[field.name])} | {_default(field)} |"
        for field in msgspec.structs.fields(kind)
    ]
    table = "\n".join(["| field | type | where it is left out |", "|---|---|---|", *rows])
    return f"## {kind.__name__}\n\n{inspect.getdoc(kind)}\n\n{table}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
        return f"`{msgspec.json.encode(value).decode()}`"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    return "required"


def _type_name(hint: object) -> str:
    """A type as people read it: structures as links, enumerations by their values."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return " or ".join(f'`"{member.value}"`' for member in hint)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return f"list of {_type_name(args[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_name, args))}]"
    if origin is dict:
        return f"object: {_type_name(args[0])} to {_type_name(args[1])}"
    if args:
        return " or ".join(_type_name(part) for part in args)
    return {int: "integer", str: "string", float: "number", bool: "true or false", type(None): "null"}[hint]  # type: ignore[index]


# --- commands


def commands_page() -> str:
    """Every command with its arguments and options, as `planc COMMAND --help` has them."""
    parts = [
        "# Commands",
        "Made from the commands themselves. `-h` and `--help` show the same on the terminal. Data goes to stdout, "
        "messages and progress to stderr; `--json` prints one JSON object and nothing else on stdout.",
        *(_command_section(name, command) for name, command in all_commands()),
    ]
    return "\n\n".join(parts) + "\n"


def _command_section(name: str, command: typer.core.TyperCommand) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(
        [
            "planc",
            name,
            *(piece for p in arguments for piece in p.get_usage_pieces(typer.Context(command))),
            "[OPTIONS]",
        ]
    )
    rows = [f"| {_flags(p)} | {_escaped(getattr(p, 'help', None) or '')} | {_option_default(p)} |" for p in options]
    table = "\n".join(["| option | meaning | default |", "|---|---|---|", *rows]) if rows else ""
    return "\n\n".join(
        part for part in (f"## {name}", f"    {usage}", inspect.cleandoc(command.help or ""), table) if part
    )


def _flags(option: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))


def _option_default(option: Any) -> str:
    value = option.default
    if value is None or value is False or value == () or callable(value):
        return ""
    return f"`{value}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    write_pages(Path(__file__).parent / "reference")
