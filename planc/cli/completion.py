"""`planc completion`: a script that completes commands, options and their values in a shell.

The script holds all words itself, so that a key press starts no process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, get_args

import typer

from planc.cli.console import out
from planc.cli.main import all_commands


class Shell(StrEnum):
    """Shells that scripts are made for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass(frozen=True)
class _Option:
    flags: tuple[str, ...]
    help: str
    takes_value: bool


@dataclass(frozen=True)
class _Command:
    """A command's name (`zoo build`), what it does, its options, and words that stand for its first argument."""

    name: str
    help: str
    options: tuple[_Option, ...]
    arguments: tuple[str, ...] = ()


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a completion script for SHELL; see the tutorial, or the script's first line, for where it goes."""
    makers: dict[Shell, Callable[[Sequence[_Command]], str]] = {Shell.BASH: _bash, Shell.ZSH: _zsh, Shell.FISH: _fish}
    out().print(makers[shell](_commands()), soft_wrap=True)


def _values() -> dict[str, tuple[str, ...]]:
    """Words that an option may have; those of others are files or free."""
    from planc.costs.catalogue import card_names
    from planc.schedule.solver import solver_names
    from planc.training.optimizers import Kind

    solvers = solver_names()
    return {
        "--budget": ("auto", "min", "max", "50%", "process:"),
        "--device": ("auto", "cpu", "cuda", "onednn", *card_names()),
        "--solver": solvers,
        "--solvers": ("all", *solvers),
        "--optimizer": tuple(get_args(Kind)),
        "--loss": ("cross-entropy", "mse", "output"),
        "--host-tier": ("file", "ram"),
        "--precision": ("float32", "float16", "bfloat16", "pure-bfloat16"),
    }


def _commands() -> list[_Command]:
    from planc.zoo import families

    first = {"zoo build": tuple(sorted(families())), "estimate": tuple(sorted(families())), "completion": tuple(Shell)}
    return [
        _Command(name, _line(command.help), tuple(map(_option, _options(command))), first.get(name, ()))
        for name, command in all_commands()
    ]


def _options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def _option(parameter: Any) -> _Option:
    return _Option((*parameter.opts, *parameter.secondary_opts), _line(parameter.help), not parameter.is_flag)


def _line(text: str | None) -> str:
    """The first sentence, without what shells would read."""
    return " ".join((text or "").split()).partition(". ")[0].translate(str.maketrans("", "", "'`\"$\\[]:"))


def _tree(commands: Sequence[_Command]) -> dict[str, tuple[str, ...]]:
    """First words, each with its second words where it is a group."""
    found: dict[str, tuple[str, ...]] = {}
    for command in commands:
        first, _, second = command.name.partition(" ")
        found[first] = (*found.get(first, ()), *((second,) if second else ()))
    return found


def _bash(commands: Sequence[_Command]) -> str:
    tree = _tree(commands)
    words = [
        f'    "{name}") words="{" ".join(inner)}" ;;' for name, inner in (("", tuple(tree)), *tree.items()) if inner
    ]
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words.append(f'    "{command.name}") words="{" ".join(command.arguments)}"; flags="{flags} --help" ;;')
    values = [
        f'    {flag}) COMPREPLY=($(compgen -W "{" ".join(v)}" -- "$cur")); return ;;' for flag, v in _values().items()
    ]
    groups = "|".join(name for name, inner in tree.items() if inner)
    return "\n".join(
        [
            "# planc completion bash > ~/.local/share/bash-completion/completions/planc",
            "_planc() {",
            '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
            '  local words="" flags="--help --version" path="" i',
            "  for ((i = 1; i < COMP_CWORD; i++)); do",
            "    [[ ${COMP_WORDS[i]} == -* ]] && break",
            '    case "$path" in',
            '      "") path="${COMP_WORDS[i]}" ;;',
            f'      {groups}) path="$path ${{COMP_WORDS[i]}}" ;;',
            "      *) break ;;",
            "    esac",
            "  done",
            '  case "$prev" in',
            *values,
            "  esac",
            '  case "$path" in',
            *words,
            "  esac",
            '  [[ $cur == -* ]] && words="$flags"',
            '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
            "}",
            "complete -o default -F _planc planc",
        ]
    )


def _zsh(commands: Sequence[_Command]) -> str:
    values = _values()

    def spec(option: _Option) -> str:
        known = next((values[flag] for flag in option.flags if flag in values), None)
        tail = "" if not option.takes_value else f":value:({' '.join(known)})" if known else ":value:_files"
        return " ".join(f"'{flag}[{option.help}]{tail}'" for flag in option.flags)

    tree = _tree(commands)
    about = {command.name: command.help for command in commands}
    lines = ["#compdef planc", "# planc completion zsh > a folder of $fpath, as the file _planc", "_planc() {"]
    lines += ["  local first=$words[2] second=$words[3]", "  if (( CURRENT == 2 )); then", "    local -a all=("]
    lines += [f"      '{name}:{about.get(name, name)}'" for name in tree] + [
        "    )",
        "    _describe command all; return",
        "  fi",
    ]
    groups = [(name, inner) for name, inner in tree.items() if inner]
    for name, inner in groups:
        lines += [
            f"  if [[ $first == {name} ]] && (( CURRENT == 3 )); then",
            f"    compadd {' '.join(inner)}; return",
            "  fi",
        ]
    lines += ['  case "$first' + "".join("${${(M)first:#" + name + "}:+ $second}" for name, _ in groups) + '" in']
    for command in commands:
        rest = f"'*:argument:({' '.join(command.arguments)})'" if command.arguments else "'*:file:_files'"
        lines += [f"  '{command.name}')", f"    _arguments {' '.join(map(spec, command.options))} {rest} ;;"]
    return "\n".join(
        [*lines, "  esac", "}", 'if [[ $funcstack[1] == _planc ]]; then _planc "$@"; else compdef _planc planc; fi']
    )


def _fish(commands: Sequence[_Command]) -> str:
    values = _values()
    tree = _tree(commands)
    lines = ["# planc completion fish > ~/.config/fish/completions/planc.fish"]
    about = {command.name: command.help for command in commands}
    for name, inner in tree.items():
        lines.append(f"complete -c planc -f -n __fish_use_subcommand -a {name} -d '{about.get(name, name)}'")
        if inner:
            unseen = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(inner)}"
            lines.append(f"complete -c planc -f -n '{unseen}' -a '{' '.join(inner)}'")
    for command in commands:
        where = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.name.split())
        if command.arguments:
            lines.append(f"complete -c planc -n '{where}' -a '{' '.join(command.arguments)}'")
        for option in command.options:
            known = next((values[flag] for flag in option.flags if flag in values), None)
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            tail = "" if not option.takes_value else f" -x -a '{' '.join(known)}'" if known else " -r"
            lines.append(f"complete -c planc -n '{where}' {flags}{tail} -d '{option.help}'")
    return "\n".join(lines)
