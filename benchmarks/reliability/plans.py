"""Altered plans: what the verifier accepts computes the model in every interleaving; `delays` executes them."""

import random
from collections.abc import Iterator, Sequence

import msgspec
from support.brute_force import brute_force
from support.mutations import MUTATIONS
from support.plans import random_plan
from support.tiny import GRAPHS

from benchmarks.reliability.count import Count
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.verifier.verify import verify

PLANS = 36
"""Random schedules that mutations start from: of three graphs, with copies, recomputations, placed Concats, pieces, scratch
in the slab or beside it."""

Case = tuple[ImportedModel, Plan]


def mutated(scale: int) -> dict[str, Count]:
    """Each class of mutation `10 * scale` times; accepted ones are judged by every interleaving."""
    judged, plans = Count(), random_cases()
    for title, imported, altered in _altered(plans, 10 * scale):
        if altered is None:
            judged.note("nothing to alter")
        elif verify(imported.graph, altered):
            judged.add(None)
            judged.note("rejected")
        else:
            judged.note("accepted")
            judged.add(_wrong(imported, altered, title, judged))
    judged.notes["classes"], judged.notes["plans"] = len(MUTATIONS), len(plans)
    return {"altered plans that the verifier judges": judged}


def accepted(cases: Sequence[Case], times: int, count: Count) -> Iterator[tuple[str, ImportedModel, Plan]]:
    """What the verifier accepts of each class of mutation `times` times, with what it is called; the same plan once.

    Of the cases of `mutated` they are those that it judges: the first of each class.
    """
    seen = set[tuple[int, bytes]]()
    for title, imported, altered in _altered(cases, times):
        if altered is None or verify(imported.graph, altered):
            continue
        key = id(imported), msgspec.json.encode(altered)
        if key in seen:
            count.note("met before")
        else:
            seen.add(key)
            yield title, imported, altered


def _altered(cases: Sequence[Case], times: int) -> Iterator[tuple[str, ImportedModel, Plan | None]]:
    """Each class of mutation `times` times, None where it finds nothing to alter."""
    for name, mutate in MUTATIONS.items():
        for serial in range(times):
            rng = random.Random(f"{name} {serial}")
            imported, plan = cases[rng.randrange(len(cases))]
            yield f"{name} {serial}", imported, mutate(plan, rng)


def random_plans(scale: int) -> dict[str, Count]:
    """Plans altered up to four times over: no plan that the verifier accepts may fail under the second judge."""
    count, plans, names = Count(), random_cases(), list(MUTATIONS)
    for serial in range(1000 * scale):
        rng = random.Random(serial)
        imported, plan = plans[rng.randrange(len(plans))]
        for _ in range(rng.randint(0, 4)):
            plan = MUTATIONS[rng.choice(names)](plan, rng) or plan
        accepted = not verify(imported.graph, plan)
        count.note("accepted", int(accepted))
        if accepted:
            count.add(_wrong(imported, plan, f"random {serial}", count))
        else:
            count.add(None)
            count.note("rejected though harmless", int(_wrong(imported, plan, "", count) is None))
    return {"random plans, judged twice": count}


def random_cases() -> list[Case]:
    """The models and plans that alterations start from."""
    return [(build(), random_plan(build(), seed, seed % 2 == 0)) for seed in range(PLANS // 3) for build in GRAPHS]


def _wrong(imported: ImportedModel, plan: Plan, name: str, count: Count) -> str | None:
    try:
        fault = brute_force(imported.graph, plan)
    except OverflowError:
        count.note("too many interleavings to try")
        return None
    return None if fault is None else f"{name}: {fault}"
