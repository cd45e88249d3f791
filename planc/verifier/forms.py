"""What runs again makes the same bits again: every execution of a layer computes its calls by the same engines."""

from collections import defaultdict
from collections.abc import Iterator

from planc.graph.graph import Graph
from planc.kernels import DOMAIN
from planc.kernels.engines import chosen
from planc.plan.plan import Plan
from planc.verifier.violation import Violation


def check_forms(graph: Graph, plan: Plan) -> Iterator[Violation]:
    """Layers whose executions run in forms for which the plan pins different engines: these need not give equal bits."""
    forms: defaultdict[int, set[str]] = defaultdict(set)
    for run in plan.runs:
        forms[run.layer].add(run.form)
    table = plan.engine_table
    for layer, taken in forms.items():
        if len(taken) < 2 or not table:
            continue
        named = graph.layers[layer]
        calls = {op.op_type for op in graph.ops[named.start : named.stop] if op.domain == DOMAIN} & table.keys()
        for call in sorted(calls):
            engines = {chosen({call: table[call]}, form)[call] for form in taken}
            if len(engines) > 1:
                text = f"its executions run in the forms {sorted(taken)}, by engines {sorted(engines)} of {call}"
                yield Violation("form", named.title, f"{text}: expected one engine, for equal bits")
