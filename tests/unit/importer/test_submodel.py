"""Canonical sub-models: equal for equal functions, executable in any sequence."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from support import networks
from support.graphs import step_model
from support.plans import random_plan

from planc.importer.import_model import import_model
from planc.importer.submodel import sub_model
from planc.runtime.measure import measure
from planc.runtime.ort.sessions import faithful_options
from planc.runtime.step import load
from planc.training import differentiate
from planc.training.optimizers import Optimizer

LINEAR = ("fc0", "fc1", "fc2", "head_matmul")


def test_identical_layers_have_equal_bytes_and_different_ones_do_not() -> None:
    imported = networks.mlp()
    layers = [layer for layer in imported.graph.layers if layer.phase == "forward" and layer.name in LINEAR]
    signatures = [sub_model(imported, range(layer.start, layer.stop)).signature for layer in layers]
    assert len(set(signatures[:3])) == 1
    assert signatures[3] != signatures[0]


def test_names_do_not_matter() -> None:
    forward = networks.forward_mlp()
    renamed = onnx.compose.add_prefix(forward, "other_")
    optimizer = Optimizer("sgd")
    one, two = (
        import_model(differentiate(model, loss="cross-entropy", optimizer=optimizer)) for model in (forward, renamed)
    )
    ops = range(len(one.graph.ops))
    assert sub_model(one, ops).signature == sub_model(two, ops).signature
    assert one.graph.content_hash != two.graph.content_hash


def test_every_output_is_exposed_with_the_position_that_writes_it() -> None:
    imported = networks.cnn()
    model = sub_model(imported, range(10))
    written = [(port.position, port.tensor) for port in model.outputs]
    for position, tensor in written:
        reads_view = tensor not in imported.graph.ops[position].outputs
        assert not reads_view or tensor in imported.graph.ops[position].inputs
    assert {t for op in imported.graph.ops[:10] for t in op.outputs if t >= 0} <= {t for _, t in written}


def test_a_repeated_operator_runs_twice_and_later_readers_see_the_second() -> None:
    imported = networks.mlp()
    layer = imported.graph.layers[0]
    ops = [*range(layer.start, layer.stop)] * 2
    model = sub_model(imported, ops)
    session = ort.InferenceSession(model.model_bytes, faithful_options(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    tensors = imported.graph.tensors
    feeds = {p.name: rng.standard_normal(tensors[p.tensor].shape).astype(np.float32) for p in model.inputs}
    outputs = session.run([p.name for p in model.outputs], feeds)
    half = len(outputs) // 2
    assert [p.tensor for p in model.outputs[:half]] == [p.tensor for p in model.outputs[half:]]
    for first, second in zip(outputs[:half], outputs[half:], strict=True):
        assert first.tobytes() == second.tobytes()


def test_shapes_are_constants() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1),
        helper.make_node("Cast", ["s"], ["f"], to=1),
        helper.make_node("Mul", ["w", "f"], ["w2"]),
    ]
    model = step_model(nodes, {"x": [4, 2, 8], "w": [2]}, {"w2": [2]}, {"w": np.ones(2, np.float32)}, {"w": "w2"})
    imported = import_model(model)
    assert [op.op_type for op in imported.graph.ops] == ["Cast", "Mul"]
    with load(random_plan(imported, 0), imported) as step:
        assert measure(step, 2, 0, compare=True).bitwise_equal is True
        assert step.state()["w"].tolist() == [4.0, 64.0]
