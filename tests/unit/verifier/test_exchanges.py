"""The verifier refuses plans that exchange wrongly, and models that would let ranks drift apart."""

from collections.abc import Callable
from typing import Any

import msgspec
import onnx
import pytest
from support.costs import made_up_costs
from support.networks import forward_cnn

from planc.compiler.job import compile_model
from planc.compiler.options import CompileOptions
from planc.errors import VerificationError
from planc.importer.import_model import ImportedModel, import_model
from planc.plan.plan import Exchange, Plan
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions
from planc.verifier.verify import verify


def model(**options: Any) -> onnx.ModelProto:
    step = StepOptions(ranks=2, bucket_bytes=2000, **options)
    return differentiate(forward_cnn(), loss="cross-entropy", optimizer=Optimizer("momentum"), options=step)


@pytest.fixture(scope="module")
def imported() -> ImportedModel:
    return import_model(model())


@pytest.fixture(scope="module")
def plan(imported: ImportedModel) -> Plan:
    made = compile_model(imported, made_up_costs(imported.graph), CompileOptions(time_limit_s=0.5)).plan
    assert verify(imported.graph, made) == ()
    assert len(made.exchanges) > 2
    assert any(exchange.after < exchange.run for exchange in made.exchanges)
    return made


def changed(plan: Plan, index: int, **changes: Any) -> Plan:
    exchanges = list(plan.exchanges)
    exchanges[index] = msgspec.structs.replace(exchanges[index], **changes)
    return msgspec.structs.replace(plan, exchanges=tuple(exchanges))


def early(plan: Plan) -> Plan:
    """The last exchange begins where the one before does, when its gradients are not complete."""
    return changed(plan, -1, after=plan.exchanges[-2].after)


def in_a_segment(plan: Plan) -> Plan:
    firsts = {first for first, _ in plan.segments}
    index, exchange = next(
        (i, e) for i, e in enumerate(plan.exchanges) if any(a not in firsts for a in range(e.after, e.run))
    )
    return changed(plan, index, after=next(a for a in range(exchange.after, exchange.run) if a not in firsts))


MUTANTS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "an exchange is left out": (lambda p: msgspec.structs.replace(p, exchanges=p.exchanges[:-1]), "exchange order"),
    "one happens twice": (
        lambda p: msgspec.structs.replace(p, exchanges=(*p.exchanges, p.exchanges[-1])),
        "exchange order",
    ),
    "two change places": (
        lambda p: msgspec.structs.replace(p, exchanges=(p.exchanges[1], p.exchanges[0], *p.exchanges[2:])),
        "exchange order",
    ),
    "one begins before its gradients are written": (early, "read before written"),
    "one begins behind its run": (lambda p: changed(p, 0, after=p.exchanges[0].run + 1), "exchange order"),
    "one begins inside a segment": (in_a_segment, "segments"),
    "it names other tensors": (lambda p: changed(p, 0, tensors=("other",)), "exchange"),
    "it has other bytes": (lambda p: changed(p, 0, bytes=p.exchanges[0].bytes + 4), "exchange"),
    "other ranks": (lambda p: msgspec.structs.replace(p, ranks=3), "ranks"),
}


@pytest.mark.parametrize("what", MUTANTS)
def test_wrong_exchanges_are_refused(what: str, imported: ImportedModel, plan: Plan) -> None:
    mutate, kind = MUTANTS[what]
    assert kind in {violation.kind for violation in verify(imported.graph, mutate(plan))}


def test_a_sum_that_lies_elsewhere_is_refused(imported: ImportedModel, plan: Plan) -> None:
    name = plan.exchanges[-1].tensors[0]
    moved = [
        msgspec.structs.replace(r, offset=plan.memory.slab_bytes) if r.storage == name else r for r in plan.residencies
    ]
    memory = msgspec.structs.replace(plan.memory, slab_bytes=plan.memory.slab_bytes + (1 << 20), budget_bytes=1 << 40)
    found = verify(imported.graph, msgspec.structs.replace(plan, residencies=tuple(moved), memory=memory))
    assert "exchange" in {violation.kind for violation in found}


def test_exchanges_of_another_model_are_refused(imported: ImportedModel, plan: Plan) -> None:
    """One that sums nothing has no exchanges to await."""
    alone = msgspec.structs.replace(plan, exchanges=(Exchange(run=0, after=0, bytes=4, tensors=("w1",)),))
    assert verify(imported.graph, alone)


def test_the_hash_of_the_order_tells_orders_apart(plan: Plan) -> None:
    other = msgspec.structs.replace(plan, exchanges=plan.exchanges[::-1])
    assert other.exchange_hash != plan.exchange_hash
    assert msgspec.structs.replace(plan, created="another day").exchange_hash == plan.exchange_hash


def bypassed(made: onnx.ModelProto, match: str) -> onnx.ModelProto:
    """The model whose readers of one sum read what this rank alone has."""
    node = next(n for n in made.graph.node if n.op_type.startswith("AllReduce") and match in n.input[0])
    for other in made.graph.node:
        for at, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[at] = node.input[0]
    made.graph.node.remove(node)
    return made


@pytest.mark.parametrize("match", ["Gemm", "Where"])
def test_a_model_whose_update_reads_one_ranks_gradient_is_refused(match: str) -> None:
    """The gradient of a matrix, and the statistics of a batch."""
    imported = import_model(bypassed(model(), match))
    with pytest.raises(VerificationError, match="its next value depends on the rank's own batch"):
        compile_model(imported, made_up_costs(imported.graph), CompileOptions(time_limit_s=0.5))
