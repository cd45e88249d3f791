"""Fused element-wise operators: what they compute, and that their order keeps every value and state."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from planc.graph.annotations import STATE, annotate_node, write_model
from planc.graph.fused import DOMAIN
from planc.graph.graph import Role
from planc.importer.group_updates import KIND
from planc.importer.import_model import ImportedModel, import_for, import_model
from planc.importer.submodel import element_type, sub_model
from planc.runtime.open import open_session
from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

SHAPES = [(4, 6), (1, 6), (4, 1), (6,), (1,)]


def _outputs(imported: ImportedModel, seed: int) -> dict[str, np.ndarray]:
    """Every tensor that the whole step writes, from one session over all operators; functions are inlined there."""
    model = sub_model(imported, range(len(imported.graph.ops)))
    session = open_session(model.model_bytes, "cpu")
    feeds = {}
    for port in model.inputs:
        tensor = imported.graph.tensors[port.tensor]
        rng = np.random.default_rng([seed, *tensor.name.encode()])
        known = imported.constants.get(tensor.name)
        if known is not None:
            value = known
        elif tensor.dtype.startswith("float"):
            value = rng.standard_normal(tensor.shape)
        else:
            value = rng.integers(0, 2, tensor.shape)
        feeds[port.name] = np.asarray(value, tensor.dtype).reshape(tensor.shape)
    values = session.run([port.name for port in model.outputs], feeds)
    return {imported.graph.tensors[p.tensor].name: v for p, v in zip(model.outputs, values, strict=True)}


def _assert_equal(plain: ImportedModel, fused: ImportedModel) -> None:
    """What the fused graph still writes has the same bits; model outputs and next states are among it."""
    wanted, found = _outputs(plain, 3), _outputs(fused, 3)
    for name, value in found.items():
        assert value.tobytes() == wanted[name].tobytes(), name
    for graph in (plain.graph, fused.graph):
        results = {graph.tensors[t].name for t in (*graph.outputs, *graph.state.values())}
        assert results & wanted.keys() <= found.keys()


def _assert_ordered(imported: ImportedModel) -> None:
    """Everything computed is written before it is read, and nobody reads an old state after it was overwritten."""
    graph, written, updated = imported.graph, set[int](), set[int]()
    for op in graph.ops:
        for t in op.inputs:
            if t < 0 or t in op.constants:
                continue
            tensor = graph.tensors[t]
            if graph.storages[tensor.storage].role is Role.COMPUTED:
                assert tensor.storage in written, op.name
            assert tensor.storage not in updated or tensor.updated, op.name
        written.update(graph.tensors[t].storage for t in op.outputs if t >= 0)
        updated.update(graph.tensors[t].storage for t in op.outputs if t >= 0 and graph.tensors[t].updated)


def _model(nodes: Sequence[onnx.NodeProto], inputs: dict[str, tuple[int, ...]], outputs: Sequence[str],
           state: dict[str, str]) -> onnx.ModelProto:  # fmt: skip
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (*outputs, *state.values())]
    graph = helper.make_graph(list(nodes), "step", infos, ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for old in state:
        shape = inputs[old]
        graph_value = np.zeros(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(graph_value, old))
    model = onnx.shape_inference.infer_shapes(model)
    write_model(model, {STATE: str(state).replace("'", '"')})
    return model


@st.composite
def _graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Layers of element-wise operators with broadcasting, sums, products, views, and a state of three parts."""
    inputs = {f"x{k}": shape for k, shape in enumerate(SHAPES)} | {"s0": (4, 6), "s1": (4, 6)}
    known = dict(inputs)
    nodes: list[onnx.NodeProto] = []
    for k in range(draw(st.integers(4, 24))):
        kind = draw(st.sampled_from(["Add", "Mul", "Sub", "Sigmoid", "Exp", "ReduceSum", "MatMul", "Reshape"]))
        full = [n for n, shape in known.items() if shape == (4, 6)]
        left = draw(st.sampled_from(sorted(known)))
        name, ins = f"v{k}", [left]
        if kind in ("Add", "Mul", "Sub"):
            ins.append(draw(st.sampled_from(sorted(known))))
            known[name] = np.broadcast_shapes(*(known[i] for i in ins))
        elif kind in ("Sigmoid", "Exp"):
            known[name] = known[left]
        elif kind == "ReduceSum":
            ins, known[name] = [draw(st.sampled_from(full))], (1, 1)
        elif kind == "MatMul":
            ins, known[name] = [draw(st.sampled_from(full)), "w"], (4, 6)
        else:
            ins, known[name] = [draw(st.sampled_from(full)), "shape"], (4, 6)
        nodes.append(helper.make_node(kind, ins, [name], name=f"n{k}"))
        annotate_node(nodes[-1], f"layer{k // 7}", "any", "forward")
    full = [n for n, shape in known.items() if shape == (4, 6) and n not in inputs]
    state = {}
    for k, old in enumerate(("s0", "s1")):
        source = draw(st.sampled_from(full)) if full else "x0"
        nodes.append(helper.make_node("Add", [old, source], [f"{old}.next"], name=f"u{k}"))
        annotate_node(nodes[-1], "optimizer", "any", "update")
        state[old] = f"{old}.next"
    ends = [n for n in known if n not in inputs and draw(st.integers(0, 3)) == 0]
    model = _model(nodes, inputs, ends, state)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32) * 2, "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4, 6], np.int64), "shape"))
    return onnx.shape_inference.infer_shapes(model)


@settings(max_examples=60, deadline=None)
@given(_graphs())
def test_a_fused_graph_computes_the_same(model: onnx.ModelProto) -> None:
    plain, fused = import_model(model), import_model(model, fused=True)
    _assert_ordered(fused)
    _assert_equal(plain, fused)


@pytest.mark.parametrize(
    ("network", "options", "optimizer"),
    [
        ("gpt2", ZooOptions(batch=2, seq=16, depth=2, width=64, classes=50), "adamw"),
        ("resnet18", ZooOptions(batch=2, image=32, classes=10), "momentum"),
    ],
)
def test_a_training_step_is_fused(network: str, options: ZooOptions, optimizer: str) -> None:
    forward = build_forward(network, options)
    model = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer(optimizer), device="cuda")
    plain, fused = import_model(model), import_model(model, fused=True)
    assert len(fused.graph.ops) < 0.8 * len(plain.graph.ops)
    kept = [layer.title for layer in fused.graph.layers if layer.kind != KIND]
    titles = [layer.title for layer in plain.graph.layers]
    assert [title for title in titles if title in set(kept)] == kept
    assert all(title.endswith("update") for title in set(titles) - set(kept))
    assert fused.layers == len(titles)
    _assert_ordered(fused)
    _assert_equal(plain, fused)


def test_states_of_an_update_are_written_by_one_operator() -> None:
    inputs = {"w": (8,), "m": (8,), "g": (8,)}
    nodes = [
        helper.make_node("Add", ["m", "g"], ["m.next"]), helper.make_node("Mul", ["m.next", "w"], ["d"]),
        helper.make_node("Sub", ["w", "d"], ["w.next"]),
    ]  # fmt: skip
    for node in nodes:
        annotate_node(node, "w", "linear", "update")
    imported = import_model(_model(nodes, inputs, [], {"w": "w.next", "m": "m.next"}), fused=True)
    (op,) = imported.graph.ops
    assert op.domain == DOMAIN
    assert {imported.graph.tensors[t].name for t in op.outputs} == {"w.next", "m.next"}


def test_a_hash_tells_which_import_is_meant() -> None:
    forward = build_forward("gpt2", ZooOptions(batch=2, seq=16, depth=1, width=64, classes=50))
    model = differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("sgd"), device="cuda")
    plain, fused = import_model(model), import_model(model, fused=True)
    assert plain.graph.content_hash != fused.graph.content_hash
    assert import_for(model, fused.graph.content_hash).graph == fused.graph
    assert import_for(model, plain.graph.content_hash).graph == plain.graph
    assert all(op.domain != DOMAIN for op in import_for(model, "another").graph.ops)


HALVES = {"bfloat16": TensorProto.BFLOAT16, "float16": TensorProto.FLOAT16}


def _half_model(nodes: Sequence[onnx.NodeProto], ends: Sequence[str], dtype: str) -> onnx.ModelProto:
    """Nodes of one layer over x [4, 6], bias [6] of a half type and w [4, 6] in float32."""
    inputs = {"x": ([4, 6], HALVES[dtype]), "bias": ([6], HALVES[dtype]), "w": ([4, 6], TensorProto.FLOAT)}
    infos = [helper.make_tensor_value_info(n, t, shape) for n, (shape, t) in inputs.items()]
    outputs = [helper.make_empty_tensor_value_info(n) for n in ends]
    for node in nodes:
        annotate_node(node, "mlp", "any", "forward")
    graph = helper.make_graph(list(nodes), "step", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_chain_of_halves_computes_in_float32_and_rounds_once(dtype: str) -> None:
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["sum"], name="add"),
        helper.make_node("Mul", ["sum", "sum"], ["square"], name="mul"),
        helper.make_node("Cast", ["square"], ["wide"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["wide", "w"], ["rest"], name="sub"),
        helper.make_node("Cast", ["rest"], ["y"], name="narrow", to=HALVES[dtype]),
    ]
    imported = import_model(_half_model(nodes, ["square", "rest", "y"], dtype), fused=True)
    (op,) = imported.graph.ops
    assert op.domain == DOMAIN
    kind = getattr(torch, dtype)
    rng = torch.Generator().manual_seed(1)
    x, bias = (torch.randn(shape, generator=rng).to(kind) for shape in ((4, 6), (6,)))
    w = torch.randn(4, 6, generator=rng)
    square = (x.float() + bias.float()) ** 2
    feeds = {"x": x, "bias": bias, "w": w}
    found = _run_all(imported, {n: t.float().numpy() for n, t in feeds.items()})
    for name, wanted in {"square": square.to(kind), "rest": square - w, "y": (square - w).to(kind)}.items():
        assert torch.equal(torch.from_numpy(found[name].astype(np.float32)), wanted.float()), name


def _run_all(imported: ImportedModel, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each output of the graph by name; ONNX Runtime computes the functions, fed by address: NumPy has no bfloat16."""
    graph = imported.graph
    model = sub_model(imported, range(len(graph.ops)))
    session = open_session(model.model_bytes, "cpu")
    binding, held = session.io_binding(), {}
    for port in (*model.inputs, *model.outputs):
        tensor = graph.tensors[port.tensor]
        code = element_type(imported, port.tensor)
        held[port.name] = np.zeros(tensor.shape, helper.tensor_dtype_to_np_dtype(code))
        if tensor.name in feeds:
            held[port.name][...] = feeds[tensor.name]
        bind = binding.bind_input if port in model.inputs else binding.bind_output
        bind(port.name, "cpu", 0, code, tensor.shape, held[port.name].ctypes.data)
    session.run_with_iobinding(binding)
    return {graph.tensors[port.tensor].name: held[port.name] for port in model.outputs}


@pytest.mark.parametrize("dtype", HALVES)
def test_one_operator_of_halves_has_a_kernel_too(dtype: str) -> None:
    nodes = [helper.make_node("Reciprocal", ["x"], ["y"], name="inverse")]
    (op,) = import_model(_half_model(nodes, ["y"], dtype), fused=True).graph.ops
    assert op.domain == DOMAIN
    (cast,) = import_model(
        _half_model([helper.make_node("Cast", ["x"], ["y"], name="widen", to=TensorProto.FLOAT)], ["y"], dtype),
        fused=True,
    ).graph.ops
    assert cast.op_type == "Cast"


def test_what_the_model_casts_is_rounded() -> None:
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["u"], name="mul"),
        helper.make_node("Cast", ["u"], ["y"], name="narrow", to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["y"], ["z"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Neg", ["z"], ["v"], name="neg"),
    ]
    imported = import_model(_half_model(nodes, ["y", "z", "v"], "bfloat16"), fused=True)
    assert len(imported.graph.ops) == 1
    w = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    found = _run_all(imported, {"w": w})
    rounded = (w * w).astype(found["y"].dtype)
    assert np.array_equal(found["y"], rounded)
    assert np.array_equal(found["z"], rounded.astype(np.float32))
    assert np.array_equal(found["v"], -rounded.astype(np.float32))
