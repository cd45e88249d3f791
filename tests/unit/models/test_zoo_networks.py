"""Every network of the zoo at reduced size: differentiates, keeps the contract, learns, repeats bit for bit."""

import re

import numpy as np
import onnx
import pytest
from support.training_contract import violations
from support.training_steps import random_batch, run_steps, session, state_pairs
from support.zoo_networks import MOMENTUM, SMALL, small_forward, small_step

from planc.errors import UsageError
from planc.graph.annotations import INPUT_RANGES, read_json
from planc.training import Optimizer, differentiate
from planc.training.prepare.parameters import trainable
from planc.training.step_options import StepOptions
from planc.zoo import ZooOptions, build_forward, families, summarize

STEPS = 4
SGD = Optimizer("sgd")


def test_every_network_is_tested() -> None:
    assert set(families()) == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_training_graph_keeps_its_contract(name: str) -> None:
    step = small_step(name, MOMENTUM)
    assert violations(step) == []
    feeds, running = random_batch(step), session(step)
    results = run_steps(step, feeds, STEPS, running)
    assert all(np.isfinite(r["loss"]) for r in results)
    if all(node.op_type != "Dropout" for node in step.graph.node):
        assert min(float(r["loss"]) for r in results[1:]) < float(results[0]["loss"])
        again = run_steps(step, feeds, 1, running)[0]
        assert all(np.array_equal(results[0][n], again[n]) for n in again)


@pytest.mark.parametrize("name", ["resnet18", "gpt2", "unet", "squeezenet"])
@pytest.mark.parametrize("optimizer", [SGD, Optimizer("adamw")], ids=lambda o: o.kind)
def test_other_forms_keep_the_contract(name: str, optimizer: Optimizer) -> None:
    """The operator forms for CUDA, with the smallest and the largest optimizer."""
    step = differentiate(small_forward(name).model, loss="cross-entropy", optimizer=optimizer, device="cuda")
    assert violations(step) == []
    assert read_json(step, INPUT_RANGES) == read_json(small_step(name, optimizer), INPUT_RANGES)
    assert np.isfinite(run_steps(step, random_batch(step))[0]["loss"])


@pytest.mark.parametrize("name", ["resnet18", "gpt2"])
def test_half_precision_keeps_the_contract(name: str) -> None:
    exact = small_step(name, MOMENTUM)
    half = differentiate(
        small_forward(name).model,
        loss="cross-entropy",
        optimizer=MOMENTUM,
        precision="float16",
        options=StepOptions(loss_scale=256.0),
    )
    assert violations(half) == []
    states = {i.name: i.type.tensor_type.elem_type for i in half.graph.input if i.name in state_pairs(half)}
    assert set(states.values()) == {onnx.TensorProto.FLOAT}
    feeds = random_batch(exact)
    assert float(run_steps(half, feeds)[0]["loss"]) == pytest.approx(
        float(run_steps(exact, feeds)[0]["loss"]), rel=2e-2
    )


@pytest.mark.parametrize("name", ["mlp", "gpt2", "resnet18", "vit_b16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bfloat16_keeps_the_contract(name: str, device: str) -> None:
    """Products run in bfloat16, between Casts on the CPU, whose kernels have none of it; state stays float32."""
    forward = small_forward(name).model
    step = differentiate(forward, loss="cross-entropy", optimizer=MOMENTUM, precision="bf16", device=device)
    assert violations(step) == []
    types = {v.name: v.type.tensor_type.elem_type for v in (*step.graph.value_info, *step.graph.input)}
    types |= {t.name: t.data_type for t in step.graph.initializer}
    assert {types[name] for name in state_pairs(step)} == {onnx.TensorProto.FLOAT}
    halves = {n for n, t in types.items() if t == onnx.TensorProto.BFLOAT16}
    kinds = ("Gemm", "MatMul", "Conv") if device == "cpu" else ("Gemm", "MatMul")
    products = [n for n in step.graph.node if n.op_type in kinds]
    products = [n for n in products if not {"constant", "OneHot"} & set(re.split(r"[.\d]", n.input[0]))]  # sums of rows
    read = [name for node in products for name in node.input[:2]]
    makers = {o: n for n in step.graph.node for o in n.output}
    if device == "cpu":
        assert not halves & {*read}
        assert sum(name in makers and makers[name].op_type == "Cast" for name in read) > len(read) / 2
        loss = run_steps(step, random_batch(step))[0]["loss"]
        exact = small_step(name, MOMENTUM)
        assert float(loss) == pytest.approx(float(run_steps(exact, random_batch(exact))[0]["loss"]), rel=5e-2)
    else:
        assert halves >= {*read}


def test_same_seed_same_network_other_seed_other_network() -> None:
    first, second, third = (small_forward("mlp", seed=s).model.SerializeToString() for s in (1, 1, 2))
    assert first == second
    assert first != third


def test_a_tied_embedding_is_scattered_onto_the_decoders_gradient() -> None:
    """No table of zeros and no sum of two tables."""
    step = small_step("gpt2", MOMENTUM)
    scatter = next(n for n in step.graph.node if n.name.startswith("wte.backward.ScatterElements"))
    assert any(scatter.input[0] in n.output and n.op_type == "Gemm" for n in step.graph.node)
    assert all(n.op_type != "ConstantOfShape" for n in step.graph.node)


def test_tied_embedding_is_one_parameter() -> None:
    step = small_step("gpt2", MOMENTUM)
    assert [name for name in state_pairs(step) if "wte" in name] == ["wte.weight", "wte.weight.momentum"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet50", {"seq": 8}, "takes no --seq"),
        ("resnet50", {"depth": 20}, "takes no --depth"),
        ("resnet", {"depth": 51}, "3 \\* blocks \\+ 2"),
        ("resnet_deep", {"depth": 134}, "blocks > 44"),
        ("gpt2", {"width": 100}, "multiple of 64"),
        ("unet", {"image": 40}, "multiple of 16"),
        ("alexnet", {"image": 30}, "too small"),
        ("mlp", {"batch": 0}, "at least 1"),
        ("resnet5", {}, "choose one of"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_forward(name, ZooOptions(**options))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512), ("resnet50", 25_557_032), ("densenet121", 7_978_856), ("mobilenet_v2", 3_504_872),
        ("squeezenet", 1_248_424), ("vit_b16", 86_567_656), ("alexnet", 60_965_224), ("vgg16", 138_357_544),
        ("vgg19", 143_667_240), ("resnet101", 44_549_160), ("resnet152", 60_192_808), ("gpt2", 124_439_808),
    ],
)  # fmt: skip
def test_published_parameter_counts(name: str, parameters: int) -> None:
    """torchvision's counts at full size (alexnet: the Caffe reference network's; gpt2: OpenAI's small model)."""
    assert summarize(name).parameters == parameters


@pytest.mark.parametrize("name", ["vit_b16", "mobilenet_v2"])
def test_a_summary_counts_what_is_built(name: str) -> None:
    """Without initial values the training graph has the same operators; its parameters are those found by rule."""
    built, bare = (build_forward(name, ZooOptions(**SMALL[name]), values) for values in (True, False))
    assert set(built.parameters) == set(trainable(built.model))
    steps = [differentiate(f.model, loss=f.loss, optimizer=SGD, parameters=f.parameters) for f in (built, bare)]
    assert steps[0].graph.node == steps[1].graph.node
    assert built.model.ByteSize() > 4 * bare.model.ByteSize()


def test_a_resnet_of_2504_layers_has_that_many() -> None:
    model = build_forward("resnet", ZooOptions(batch=1, image=32, width=1, classes=2, depth=2504), values=False).model
    convolutions = [n for n in model.graph.node if n.op_type == "Conv" and "downsample" not in n.name]
    assert len(convolutions) + 1 == 2504
