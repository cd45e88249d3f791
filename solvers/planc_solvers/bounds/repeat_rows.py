"""Rows of recomputations: their inputs are there, and a value and its producer's input are not missing for nothing."""

from planc.problem.problem import Origin
from planc_solvers.bounds.relaxation import Coarse, minus


def add_input_rows(c: Coarse) -> None:
    """A recomputation of task t in stage k finds every input v that is not made in that stage anyway.

    R_tk ≤ P_v,k-1 + R_k of v's task + I_vk, and, for a computed v, its content at each critical task q < k after its making
    was on the device or on the host, or it is recomputed itself:  R_tk ≤ P_vq + Σ O_v up to q + Σ R of v's task up to k.
    """
    for (task, k), repeat in c.x.recomputed.items():
        for value in c.problem.accesses[task]:
            computed = c.problem.values[value].origin is Origin.COMPUTED
            if computed and c.stages.birth[value] == k:
                continue
            if not c.is_fixed(value, k - 1):
                c.model.row([(repeat, 1.0), *minus(c.supply(value, k))], upper=0.0)
            if computed and c.swappable(value):
                for before in range(c.stages.birth[value], k):
                    if not c.is_fixed(value, before):
                        c.model.row([(repeat, 1.0), *minus(c.content(value, before, k))], upper=0.0)


def add_pair_rows(c: Coarse) -> None:
    """A value v and its producer's input u both absent at critical task k: one of them comes back before v's next use s.

    P_vk + P_uk + Σ I_vq + Σ (R of u's task + I_u)_q  ≥  1,  sums over the stages k < q ≤ s.
    Without these rows more critical tasks can weaken the relaxation: the recomputation spreads over several stages.
    """
    for value, producer in enumerate(c.problem.producer):
        if producer is None or not c.problem.tasks[producer].recomputable:
            continue
        for k in range(c.stages.birth[value], c.stages.horizon[value]):
            later = [use for use in c.stages.uses[value] if use > k]
            if (value, k) not in c.x.present or c.is_fixed(value, k) or not later:
                continue
            fetched = c.ins(value, k + 1, later[0])
            for parent in c.problem.accesses[producer]:
                if (parent, k) in c.x.present and not c.is_fixed(parent, k):
                    back = [term for q in range(k + 1, later[0] + 1) for term in c.remade(parent, q)]
                    held = [(c.x.present[value, k], 1.0), (c.x.present[parent, k], 1.0)]
                    c.model.row([*held, *fetched, *back], lower=1.0)
