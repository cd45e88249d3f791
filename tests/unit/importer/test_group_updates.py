"""Updates of several parameters as one operator: the same bits, no higher peak, and what a group may not join."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.whole_graph import run_all

from planc.graph.annotations import STATE, annotate_node, write_model
from planc.graph.footprint import footprints
from planc.graph.fused import DOMAIN
from planc.graph.graph import Graph
from planc.graph.grouped import is_group, members_of
from planc.graph.inplace import in_place_inputs
from planc.graph.liveness import live_bytes
from planc.importer.group_updates import MOST_OPERANDS, SHARE
from planc.importer.import_model import ImportedModel, import_model
from planc.training import Optimizer, differentiate
from planc.training.step_options import StepOptions
from planc.verifier.operators import may_overwrite, may_update
from planc.zoo import ZooOptions, build_forward

NETWORKS = {
    "gpt2": ZooOptions(batch=2, seq=256, depth=2, width=64, classes=50),
    "squeezenet": ZooOptions(batch=2, image=64, classes=10),
}


def _step(network: str, optimizer: str, precision: str, options: StepOptions) -> onnx.ModelProto:
    forward = build_forward(network, NETWORKS[network])
    return differentiate(
        forward.model, loss=forward.loss, optimizer=Optimizer(optimizer, weight_decay=0.01), device="cuda",
        precision=precision, parameters=forward.parameters, options=options,
    )  # fmt: skip


def _groups(graph: Graph) -> list[int]:
    return [at for at, op in enumerate(graph.ops) if op.domain == DOMAIN and is_group(op.op_type)]


def _ungrouped(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> ImportedModel:
    with monkeypatch.context() as patch:
        patch.setattr("planc.importer.import_model.group_updates", lambda *_: None)
        return import_model(model, fused=True)


CASES = [
    ("gpt2", "adamw", "float32", StepOptions()),
    ("gpt2", "adam", "float16", StepOptions(clip_norm=1.0)),
    ("squeezenet", "momentum", "float32", StepOptions(ema_decay=0.9)),
    ("squeezenet", "sgd", "float16", StepOptions(clip_value=1.0)),
]


@pytest.mark.parametrize(("network", "optimizer", "precision", "options"), CASES)
def test_a_grouped_step_computes_the_same_within_the_same_peak(
    network: str, optimizer: str, precision: str, options: StepOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _step(network, optimizer, precision, options)
    apart, grouped = _ungrouped(model, monkeypatch), import_model(model, fused=True)
    found = _groups(grouped.graph)
    assert 1 <= len(found) <= len(apart.graph.ops) - len(grouped.graph.ops)
    assert (grouped.layers, grouped.operators) == (apart.layers, apart.operators)
    peaks = [max(live_bytes(i.graph, footprints(i.graph))) for i in (grouped, apart)]
    assert peaks[0] <= peaks[1]
    for at in found:
        op = grouped.graph.ops[at]
        storages = {*grouped.graph.op_reads[at], *grouped.graph.op_writes[at]}
        assert sum(grouped.graph.storages[s].nbytes for s in storages) <= peaks[1] // SHARE
        assert len(op.inputs) + len(op.outputs) <= MOST_OPERANDS
    wanted, made = run_all(apart), run_all(grouped)
    assert made.keys() == wanted.keys()
    assert all(made[name].tobytes() == wanted[name].tobytes() for name in made)


def _sgd(
    parameters: Sequence[str], between: Sequence[onnx.NodeProto] = (), **shapes: tuple[int, ...]
) -> onnx.ModelProto:
    """w - g x for every parameter, in this order, after a pass that sets the peak; `between` stands before the last."""
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [65536])]
    nodes = [helper.make_node("Exp", ["x"], ["big"]), helper.make_node("ReduceMax", ["big"], ["rate"], keepdims=0)]
    annotate_node(nodes[0], "net", "any", "forward")
    annotate_node(nodes[1], "net", "any", "forward")
    state = {}
    model_state = []
    for name in parameters:
        shape = shapes.get(name, (8,))
        infos += [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (name, f"g.{name}")]
        model_state.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
        state[name] = f"{name}.next"
        update = [
            helper.make_node("Mul", [f"g.{name}", "rate"], [f"d.{name}"]),
            helper.make_node("Sub", [name, f"d.{name}"], [f"{name}.next"]),
        ]
        for node in update:
            annotate_node(node, name, "linear", "update")
        nodes += [*(between if name == parameters[-1] else ()), *update]
    ends = ["rate", *state.values(), *(o for node in between for o in node.output)]
    graph = helper.make_graph(nodes, "step", infos, [helper.make_empty_tensor_value_info(n) for n in ends], model_state)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    write_model(model, {STATE: str(state).replace("'", '"')})
    return model


def _members(model: onnx.ModelProto) -> list[int]:
    imported = import_model(model, fused=True)
    return [len(members_of(imported.functions[imported.graph.ops[at].op_type])) for at in _groups(imported.graph)]


def test_updates_of_vectors_join() -> None:
    assert _members(_sgd(["a", "b", "c"])) == [3]


def test_a_parameter_that_is_large_stays_alone() -> None:
    assert _members(_sgd(["a", "b", "c", "d", "e"], c=(1024,))) == [2, 2]


def test_what_reads_a_new_value_ends_a_group() -> None:
    reader = helper.make_node("ReduceSum", ["a.next"], ["sum"])
    annotate_node(reader, "late", "any", "update")
    assert _members(_sgd(["a", "b", "c"], [reader])) == [2]


def test_an_update_that_reads_anothers_new_value_is_no_member() -> None:
    model = _sgd(["a", "b", "c"])
    next(node for node in model.graph.node if node.output[0] == "d.c").input[0] = "a.next"
    assert _members(model) == [2]


def test_a_group_writes_over_nothing_but_its_state() -> None:
    imported = import_model(_sgd(["a", "b"]), fused=True)
    (at,) = _groups(imported.graph)
    op = imported.graph.ops[at]
    assert in_place_inputs(op.op_type, op.domain, len(op.inputs)) == ()
    for storage in imported.graph.op_reads[at]:
        assert not may_overwrite(imported.graph, at, storage)
    states = [s for s in imported.graph.op_writes[at] if s in imported.graph.op_reads[at]]
    assert len(states) == 2
    assert all(may_update(imported.graph, at, storage) for storage in states)


def test_the_verifier_refuses_a_group_that_would_overwrite_a_view_of_its_state() -> None:
    imported = import_model(_sgd(["a", "b"]), fused=True)
    (at,) = _groups(imported.graph)
    graph = imported.graph
    state = next(s for s in graph.op_writes[at] if s in graph.op_reads[at])
    turned = tuple(
        replace(t, shape=(2, 4)) if t.storage == state and k in graph.ops[at].inputs else t
        for k, t in enumerate(graph.tensors)
    )
    assert not may_update(replace(graph, tensors=turned), at, state)
