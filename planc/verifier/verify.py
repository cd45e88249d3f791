"""The independent proof that a plan computes its model within its budget.

It trusts nothing of the compiler: liveness is rebuilt from the model, the happens-before order from the waits. What it
proves: every operator runs on inputs that were completely written, in the right version; no byte is reused while an
engine may still touch it; what runs again is computed by the same engines; state ends where the next step expects it; the
slab and scratch fit the budget. Of a step of several ranks: every sum over them is exchanged once, in an order that all
ranks share, while nothing else touches its bytes; and state stays the same on all ranks.
"""

from planc.errors import VerificationError
from planc.graph.graph import Graph
from planc.plan.plan import Plan
from planc.verifier.bytes import check_bytes
from planc.verifier.clocks import happens_before
from planc.verifier.content import ContentCheck
from planc.verifier.exchanges import check_exchange_form, check_exchanges, check_ranks
from planc.verifier.forms import check_forms
from planc.verifier.structure import check_structure
from planc.verifier.violation import Violation


def verify(graph: Graph, plan: Plan) -> tuple[Violation, ...]:
    """Every violation found; empty for a valid plan. Form is checked first, then order, content and bytes."""
    found = list(check_structure(graph, plan))
    if not found:
        found += check_exchange_form(graph, plan)
        found += check_forms(graph, plan)
    if found:
        return tuple(found)
    order = happens_before(plan)
    if order.deadlocked:
        text = f"{', '.join(order.deadlocked[:3])} wait for something that never happens"
        return (Violation("deadlock", order.deadlocked[0], text),)
    content = ContentCheck(graph, plan, order)
    found += content.violations()
    found += check_bytes(content)
    found += check_exchanges(content)
    found += check_ranks(graph)
    return tuple(found)


def require_valid(graph: Graph, plan: Plan, name: str) -> None:
    """Raise VerificationError, naming the plan and its first violations, unless the plan is valid."""
    violations = verify(graph, plan)
    if violations:
        shown = "\n  ".join(str(v) for v in violations[:5])
        more = f"\n  and {len(violations) - 5} more" if len(violations) > 5 else ""
        raise VerificationError(f"{name} is not a valid plan for this model:\n  {shown}{more}")
