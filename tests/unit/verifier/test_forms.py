"""A layer that runs again must be computed by the engines that computed it before."""

from collections import Counter
from functools import cache

import msgspec
from support.plans import random_plan
from support.zoo_networks import MOMENTUM, small_forward

from planc.importer.import_model import ImportedModel, import_model
from planc.kernels import DOMAIN
from planc.plan.plan import EnginePin, Plan
from planc.training import differentiate
from planc.verifier.verify import verify

LEAN = "workspace_1m"


@cache
def _imported() -> ImportedModel:
    built = small_forward("resnet18")
    step = differentiate(built.model, loss=built.loss, optimizer=MOMENTUM, device="cuda", parameters=built.parameters)
    return import_model(step)


@cache
def _recomputing() -> tuple[Plan, int, str]:
    """A plan, the second execution of a layer with a convolution in it, and that call."""
    graph = _imported().graph
    for seed in range(2, 20):
        plan = random_plan(_imported(), seed)
        seen: Counter[int] = Counter()
        for position, run in enumerate(plan.runs):
            seen[run.layer] += 1
            layer = graph.layers[run.layer]
            ops = graph.ops[layer.start : layer.stop]
            calls = [op.op_type for op in ops if op.domain == DOMAIN and op.op_type.startswith("Convolution_")]
            if seen[run.layer] == 2 and calls:
                return plan, position, calls[0]
    raise AssertionError("no random plan runs a convolution again")


def _with(engines: list[tuple[str, int]], form: str, of: str | None = None) -> Plan:
    """The plan with pinned engines of that call or another one, the segment of the second execution in a form."""
    plan, position, call = _recomputing()
    first, end = next(segment for segment in plan.segments if segment[0] <= position < segment[1])
    runs = tuple(msgspec.structs.replace(r, form=form) if first <= i < end else r for i, r in enumerate(plan.runs))
    pins = {of or call: tuple(EnginePin(*engine) for engine in engines)}
    return msgspec.structs.replace(plan, runs=runs, engines=pins)


def test_executions_by_two_engines_are_a_violation() -> None:
    (violation,) = verify(_imported().graph, _with([("fast", 8 << 20), ("lean", 0)], LEAN))
    assert violation.kind == "form"
    assert violation.where == _imported().graph.layers[_recomputing()[0].runs[_recomputing()[1]].layer].title
    assert "['fast', 'lean']" in violation.explanation


def test_executions_by_one_engine_are_none_whatever_their_forms() -> None:
    graph = _imported().graph
    assert not verify(graph, _with([("fast", 8 << 20), ("lean", 0)], ""))
    assert not verify(graph, _with([("fast", 1 << 20), ("lean", 0)], LEAN))
    assert not verify(graph, _with([("only", 8 << 20)], LEAN))


def test_engines_of_calls_that_run_elsewhere_do_not_matter() -> None:
    graph = _imported().graph
    assert not verify(graph, _with([("fast", 8 << 20), ("lean", 0)], LEAN, of="Convolution_of_nothing_here"))
