"""Altered plans: what the verifier accepts computes the model, in every interleaving and when it is executed."""

import random

import numpy as np
from support.brute_force import brute_force
from support.mutations import MUTATIONS
from support.plans import random_plan
from support.tiny import GRAPHS

from benchmarks.reliability.count import Count
from planc.importer.import_model import ImportedModel
from planc.plan.plan import Plan
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.verifier.verify import verify

PLANS = 36
"""Random schedules that mutations start from: of three graphs, with copies, recomputations, placed Concats, pieces, scratch
in the slab or beside it."""

_EXECUTED = 40
"""Every so many accepted mutants one is executed."""


def mutated(scale: int) -> dict[str, Count]:
    """Each class of mutation `10 * scale` times; accepted ones are judged by every interleaving, some executed."""
    judged, executed = Count(), Count()
    plans = _plans()
    for name, mutate in MUTATIONS.items():
        for serial in range(10 * scale):
            rng = random.Random(f"{name} {serial}")
            imported, plan = plans[rng.randrange(len(plans))]
            altered = mutate(plan, rng)
            if altered is None:
                judged.note("nothing to alter")
                continue
            if verify(imported.graph, altered):
                judged.add(None)
                judged.note("rejected")
                continue
            judged.note("accepted")
            judged.add(_wrong(imported, altered, f"{name} {serial}", judged))
            if judged.notes["accepted"] % _EXECUTED == 0:
                executed.add(_differs(imported, altered, f"{name} {serial}"))
    judged.notes["classes"], judged.notes["plans"] = len(MUTATIONS), len(plans)
    return {"altered plans that the verifier judges": judged, "accepted altered plans, executed": executed}


def random_plans(scale: int) -> dict[str, Count]:
    """Plans altered up to four times over: no plan that the verifier accepts may fail under the second judge."""
    count, plans, names = Count(), _plans(), list(MUTATIONS)
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


def _plans() -> list[tuple[ImportedModel, Plan]]:
    return [(build(), random_plan(build(), seed, seed % 2 == 0)) for seed in range(PLANS // 3) for build in GRAPHS]


def _wrong(imported: ImportedModel, plan: Plan, name: str, count: Count) -> str | None:
    try:
        fault = brute_force(imported.graph, plan)
    except OverflowError:
        count.note("too many interleavings to try")
        return None
    return None if fault is None else f"{name}: {fault}"


def _differs(imported: ImportedModel, plan: Plan, name: str) -> str | None:
    """Run three steps against the unplanned graph."""
    with load(plan, imported) as step, np.errstate(all="ignore"):
        result = measure(step, 3, 0, compare=True)
    return None if result.bitwise_equal else f"{name}: {result.differing_values} values differ"
