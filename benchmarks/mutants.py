"""Mutates the verifier and the plan and asks what notices: mutmut's mutations, one at a time, each in a process of its own.

    pip install mutmut
    PYTHONPATH=.:tests python -m benchmarks.mutants planc/verifier/clocks.py planc/plan/curve.py
    PYTHONPATH=.:tests python -m benchmarks.mutants --all          every file of both: two hours of one core

A mutant of the verifier is killed when it accepts an altered plan that a second judge finds harmful in some interleaving
(`tests/support/brute_force.py`), when it rejects a plan that is valid, when it ends in an error or never, and else when a
test fails (`TESTS`), which is all that is asked of a mutant of the plan. What is said of a violation (texts, and the
arguments of `Violation`) is not mutated.

Counts and survivors go to `benchmarks/results/mutants.json`, file by file; files that are left out stay as they are. Why a
survivor may live is written there by hand (`why`), and stays while it survives. `docs/results/mutants.md` is made of it.
"""

import argparse
import importlib.abc
import importlib.util
import json
import os
import random
import resource
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from support.brute_force import brute_force
from support.mutations import MUTATIONS
from support.plans import random_plan
from support.tiny import GRAPHS

from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.verifier.verify import verify

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/mutants.json"
PAGE = ROOT / "docs/results/mutants.md"
JUDGE = "planc.verifier"
TESTS = {
    "planc.verifier": (("tests/unit/verifier/test_clocks.py",), ("tests/unit/verifier",)),
    "planc.plan": (
        ("tests/unit/plan",),
        ("tests/unit/runtime/test_values.py", "tests/unit/runtime/test_training_step.py"),
        ("tests/unit/lowering/test_placed_concats.py", "tests/unit/cli/test_several_ranks.py"),
    ),
}
"""By package, the tests that a mutant must pass to survive, quick ones first."""

Tests = tuple[tuple[str, ...], ...]
_SEEDS, _SECONDS = 12, 120
_TEXTS = {"text", "where", "name", "kind", "more", "shown", "named"}
"""Names of what is only said."""


@dataclass(frozen=True)
class Judged:
    """A plan, and whether the verifier is to accept it."""

    graph: Graph
    plan: Plan
    valid: bool


def judged_plans() -> list[Judged]:
    """Valid plans, and altered ones that are accepted or harmful; those that are rejected though harmless say nothing."""
    found, altered = list[Judged](), list[Judged]()
    for seed in range(_SEEDS):
        imported = GRAPHS[seed % len(GRAPHS)]()
        plan = random_plan(imported, seed, seed % 2 == 0)
        found.append(Judged(imported.graph, plan, True))
        for name, mutate in MUTATIONS.items():
            other = mutate(plan, random.Random(f"{name} {seed}"))
            if other is not None:
                valid = not verify(imported.graph, other)
                if valid or _harmful(imported.graph, other):
                    altered.append(Judged(imported.graph, other, valid))
    random.Random(0).shuffle(altered)  # of all classes early: most mutants are noticed by a few plans
    return found + altered


def _harmful(graph: Graph, plan: Plan) -> bool:
    try:
        return brute_force(graph, plan) is not None
    except OverflowError:
        return False


@dataclass(frozen=True)
class Mutant:
    """One mutation of a file: its line, what stood there and stands there now, and the whole source."""

    line: int
    before: str
    after: str
    source: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutation of mutmut's operators but those of what is only said."""
    import libcst
    from mutmut.mutation.file_mutation import create_mutations, deep_replace

    code = path.read_text()
    module, mutations, *_ = create_mutations(str(path), code)
    for mutation in mutations:
        old, new = mutation.original_node, mutation.mutated_node
        if mutation.contained_by_top_level_function is None or _is_said(old):
            continue
        changed = deep_replace(module, old, new)
        if isinstance(changed, libcst.Module) and changed.code != code:
            pairs = enumerate(zip(code.splitlines(), changed.code.splitlines(), strict=False), 1)
            line = next((at for at, (a, b) in pairs if a != b), 0)
            yield Mutant(line, module.code_for_node(old).strip(), module.code_for_node(new).strip(), changed.code)


def _is_said(node: Any) -> bool:
    import libcst

    if isinstance(node, libcst.BaseString):
        return True
    if isinstance(node, libcst.Assign):
        return any(isinstance(t.target, libcst.Name) and t.target.value in _TEXTS for t in node.targets)
    return isinstance(node, libcst.Call) and isinstance(node.func, libcst.Name) and node.func.value == "Violation"


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another source."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, self.name, "exec"), module.__dict__)


def survives(name: str, mutant: Mutant, plans: list[Judged], tests: Tests) -> bool:
    """Whether neither plans nor tests notice that module `name` is mutated: in a fork of this process."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        code = 1
        with (
            suppress(BaseException),
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            code = 0 if _unnoticed(name, mutant, plans, tests) else 1
        os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _unnoticed(name: str, mutant: Mutant, plans: list[Judged], tests: Tests) -> bool:
    import pytest

    sys.meta_path.insert(0, _Mutated(name, mutant.source))
    if name.startswith(JUDGE):
        _forget(JUDGE)
        mutated = importlib.import_module(f"{JUDGE}.verify").verify
        if any(bool(mutated(each.graph, each.plan)) is each.valid for each in plans):
            return False
        _forget("planc.runtime.step", "planc.compiler", "support")  # which hold the verifier as it is
    else:
        _forget("planc", "support")
    return all(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files]) == 0 for files in tests)


def _forget(*packages: str) -> None:
    for loaded in [module for module in sys.modules if module.startswith(packages)]:
        del sys.modules[loaded]


def main() -> None:
    """Mutate what is asked for; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--quick", action="store_true", help="of the tests, the quick ones only")
    options = parser.parse_args()
    folders = [ROOT / package.replace(".", "/") for package in TESTS]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))] if options.all else options.files
    plans = judged_plans()
    print(f"{len(plans)} plans, {sum(each.valid for each in plans)} of them valid", flush=True)
    for path in files:
        name = ".".join(path.resolve().relative_to(ROOT).with_suffix("").parts)
        tests = TESTS[name.rpartition(".")[0]][: 1 if options.quick else None]
        tried, left = 0, list[dict[str, object]]()
        for mutant in mutants_of(path):
            tried += 1
            if survives(name, mutant, plans, tests):
                left.append({"line": mutant.line, "before": mutant.before, "after": mutant.after})
                print(f"{path.name}:{mutant.line}: {mutant.before!r} → {mutant.after!r}", flush=True)
        print(f"{path}: {tried} mutants, {len(left)} survived", flush=True)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        before = {(s["before"], s["after"]): s.get("why", "") for s in found.get(name, {}).get("survivors", ())}
        survivors = [{**s, "why": before.get((s["before"], s["after"]), "")} for s in left]
        found[name] = {"tried": tried, "survived": len(left), "survivors": survivors}
        RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")
        PAGE.write_text(page(found))


_HEAD = """# Mutants: who notices that the verifier, or a plan, is wrong

    pip install mutmut
    PYTHONPATH=.:tests python -m benchmarks.mutants --all

Every mutation of mutmut's operators, one at a time; `benchmarks/mutants.py`, which makes this page, says who judges it.
What only words a message is left out where that can be told. A survivor is harmless for a reason, or still to be killed.

| file | mutants | survived |
|---|---:|---:|
"""


def page(found: dict[str, Any]) -> str:
    """The files' counts, and every survivor with why it may live."""
    lines, told = list[str](), list[str]()
    for name, count in sorted(found.items()):
        lines.append(f"| `{name}` | {count['tried']} | {count['survived']} |")
        for survivor in count["survivors"]:
            change = f"`{survivor['before']}` → `{survivor['after']}`".replace("\n", " ")
            told.append(f"- `{name}`, line {survivor['line']}: {change}. {survivor['why'] or 'Not explained yet.'}")
    return _HEAD + "\n".join([*lines, "", "## Survivors", "", *told]) + "\n"


if __name__ == "__main__":
    main()
