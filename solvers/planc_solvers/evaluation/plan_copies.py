"""Copies of plans."""

from planc_solvers.evaluation.arrays import Arrays, SearchPlan, empty_plan
from planc_solvers.jit import outer


@outer
def copy_plan(source: SearchPlan, target: SearchPlan) -> None:
    """Overwrite `target` with `source`."""
    length, words = source.length[0], source.fetch.shape[1]
    seq, fetch, home, choice = source.seq, source.fetch, source.home, source.choice
    to_seq, to_fetch, to_home, to_choice = target.seq, target.fetch, target.home, target.choice
    for p in range(length):
        to_seq[p] = seq[p]
        to_choice[p] = choice[p]
        for q in range(words):
            to_fetch[p, q] = fetch[p, q]
    for v in range(home.size):
        to_home[v] = home[v]
    target.length[0], target.batch[0] = length, source.batch[0]


def copied(a: Arrays, plan: SearchPlan) -> SearchPlan:
    """A copy of `plan`."""
    twin = empty_plan(a)
    copy_plan(plan, twin)
    return twin
