"""`planc verify`: prove that a plan computes its model within its budget."""

from pathlib import Path

from planc.cli.console import out, print_json
from planc.cli.options import Json, Model, beside
from planc.errors import VerificationError


def verify_command(plan: Path, model: Model = None, json: Json = False) -> None:
    """Rebuild liveness and happens-before from the model and check PLAN against them."""
    from planc.importer.import_model import import_for
    from planc.plan.plan import Plan
    from planc.verifier.verify import verify

    loaded = Plan.load(plan)
    graph = import_for(beside(plan, loaded.model.file, loaded.model.hash, model), loaded.model.hash).graph
    violations = verify(graph, loaded)
    if json:
        rows = [{"kind": v.kind, "where": v.where, "explanation": v.explanation} for v in violations]
        print_json({"valid": not violations, "violations": rows})
    elif not violations:
        counts = f"{len(loaded.runs)} runs, {len(loaded.copies)} copies, {len(loaded.residencies)} residencies"
        out().print(f"{plan} is valid: {counts}")
    else:
        for violation in violations:
            out().print(str(violation))
    if violations:
        raise VerificationError(f"{plan}: {len(violations)} violations")
