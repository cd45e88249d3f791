"""A whole imported step as one model again: the bits of the model that was given, fused or not."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.training_steps import random_batch, state_pairs
from support.zoo_networks import small_forward

from planc.graph.fused import DOMAIN as FUSED
from planc.importer.import_model import import_model
from planc.importer.whole import forms_of_operators, fuses_halves, whole_model
from planc.kernels import DOMAIN
from planc.kernels.engines import form_of
from planc.runtime.ort.sessions import faithful_options
from planc.training.differentiate import differentiate
from planc.training.optimizers import Optimizer


def _run(model: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    running = ort.InferenceSession(model.SerializeToString(), faithful_options(), providers=["CPUExecutionProvider"])
    return running.run(names, {i.name: feeds[i.name] for i in running.get_inputs() if i.name in feeds})


def _step(name: str, device: str, precision: str = "float32") -> onnx.ModelProto:
    forward = small_forward(name)
    return differentiate(
        forward.model, loss=forward.loss, optimizer=Optimizer("adamw"), device=device, precision=precision
    )


@pytest.mark.parametrize("name", ["gpt2", "densenet121"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_whole_model_has_the_bits_of_the_one_that_was_imported(name: str, device: str) -> None:
    step = _step(name, device)
    state = state_pairs(step)  # hyper-parameters have defaults, which must be there
    feeds = {t.name: onnx.numpy_helper.to_array(t) for t in step.graph.initializer if t.name in state}
    feeds |= random_batch(step)
    names = [o.name for o in step.graph.output]
    wanted = _run(step, names, feeds)
    imported = import_model(step, fused=True)
    assert any(op.domain == FUSED for op in imported.graph.ops)
    whole = whole_model(imported, {})
    onnx.checker.check_model(whole)
    assert sorted(o.name for o in whole.graph.output) == sorted(names)
    for mine, theirs in zip(_run(whole, names, feeds), wanted, strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_only_chains_of_half_precision_make_other_bits_than_the_model_given() -> None:
    assert not fuses_halves(import_model(_step("gpt2", "cuda"), fused=True))
    assert not fuses_halves(import_model(_step("gpt2", "cuda", "bf16")))
    assert fuses_halves(import_model(_step("gpt2", "cuda", "bf16"), fused=True))


def test_own_operators_are_marked_with_the_form_of_their_layer() -> None:
    imported = import_model(_step("gpt2", "cuda"), fused=True)
    layers = {next(i for i, x in enumerate(imported.graph.layers) if op in range(x.start, x.stop)): op
              for op, node in enumerate(imported.graph.ops) if node.domain == DOMAIN}  # fmt: skip
    layer, last = max(layers.items())
    forms = {layer: "workspace_4m"}
    assert last in forms_of_operators(imported, forms)
    marked = [node for node in whole_model(imported, forms).graph.node if form_of(node)]
    assert len(marked) == len(forms_of_operators(imported, forms))
    assert {form_of(node) for node in marked} == {"workspace_4m"}
