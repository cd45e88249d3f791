"""Exported training steps against PyTorch training the same module in float64, and planned against unplanned."""

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.plans import random_plan
from support.training_contract import violations
from support.training_steps import session, state_pairs

pytest.importorskip("torch")

import torch
from support.torch_modules import CASES, Case, case, gpt
from torch.utils._pytree import tree_leaves, tree_map

import planc.torch
from planc.graph.annotations import node_annotation
from planc.importer.import_model import import_model
from planc.runtime.measure import measure
from planc.runtime.step import load
from planc.training import Optimizer

STEPS = 5


class Unplanned:
    """The exported step in an ordinary ONNX Runtime session, its state fed back."""

    def __init__(self, model: onnx.ModelProto, batch: Any) -> None:
        self.session, self.pairs = session(model), state_pairs(model)
        self.state = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in self.pairs}
        given = {t.name for t in model.graph.initializer}
        names = [i.name for i in model.graph.input if i.name not in given]
        self.feeds = {name: t.numpy() for name, t in zip(names, tree_leaves(batch), strict=True)}
        self.outputs = [o.name for o in model.graph.output]

    def __call__(self) -> float:
        made = dict(zip(self.outputs, self.session.run(self.outputs, {**self.feeds, **self.state}), strict=True))
        self.state = {name: made[following] for name, following in self.pairs.items()}
        return float(made["loss"])


def train(example: Case, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Train `example.module` in place by torch; its losses."""
    inputs = example.batch[0] if isinstance(example.batch[0], tuple) else (example.batch[0],)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = example.loss(example.module(*inputs), example.batch[1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def in_float64(example: Case) -> Case:
    """The same case with all floats in float64."""
    batch = tree_map(lambda t: t.double() if t.is_floating_point() else t, example.batch)
    return Case(copy.deepcopy(example.module).double(), example.loss, batch)


def worst_difference(state: dict[str, np.ndarray], module: torch.nn.Module) -> float:
    """The largest difference of a parameter or buffer, relative to that tensor's largest value."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    shared = {name: t.detach().numpy() for name, t in tensors.items() if name in state}
    assert shared
    return max(float(np.abs(state[n] - t).max() / max(1e-2, np.abs(t).max())) for n, t in shared.items())


@pytest.mark.parametrize("name", CASES)
def test_steps_follow_torch(name: str) -> None:
    example = case(name)
    model = planc.torch.export_training_step(
        example.module, example.loss, example.batch, torch.optim.SGD(example.module.parameters(), 0.05, momentum=0.9)
    )
    reference, step = in_float64(example), Unplanned(model, example.batch)
    expected = train(reference, torch.optim.SGD(reference.module.parameters(), 0.05, momentum=0.9), STEPS)
    np.testing.assert_allclose([step() for _ in range(STEPS)], expected, rtol=2e-5)
    assert worst_difference(step.state, reference.module) < 3e-5


@pytest.mark.parametrize("name", CASES)
def test_the_graph_keeps_the_contract(name: str) -> None:
    example = case(name)
    for device in ("cpu", "cuda"):
        model = planc.torch.export_training_step(
            example.module, example.loss, example.batch, Optimizer("adamw"), device=device
        )
        assert violations(model) == []


@pytest.mark.parametrize("name", ["resnet", "unet", "gpt with dropout", "bert"])
def test_plans_compute_the_same_bits(name: str) -> None:
    example = gpt(dropout=0.2) if name == "gpt with dropout" else case(name)
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, Optimizer("momentum"))
    imported = import_model(model)
    for seed in range(2):
        with load(random_plan(imported, seed), imported) as step:
            result = measure(step, steps=3, seed=seed, compare=True)
        assert result.bitwise_equal is True


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-6),
    "adam-decay": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_follow_torch(kind: str) -> None:
    example = case("vit")
    model = planc.torch.export_training_step(
        example.module, example.loss, example.batch, OPTIMIZERS[kind](example.module.parameters())
    )
    reference, step = in_float64(example), Unplanned(model, example.batch)
    expected = train(reference, OPTIMIZERS[kind](reference.module.parameters()), 20)
    np.testing.assert_allclose([step() for _ in range(20)], expected, rtol=1e-3)
    assert worst_difference(step.state, reference.module) < 1e-3


def test_parameter_groups_keep_their_own_rates() -> None:
    def grouped(module: torch.nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in module.parameters() if p.dim() > 1]
        plain = [p for p in module.parameters() if p.dim() <= 1]
        return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.2}, {"params": plain, "lr": 0.05}], 0.01)

    example = case("vit")
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, grouped(example.module))
    reference, step = in_float64(example), Unplanned(model, example.batch)
    expected = train(reference, grouped(reference.module), 10)
    np.testing.assert_allclose([step() for _ in range(10)], expected, rtol=1e-3)


@pytest.mark.parametrize(("kind", "network"), [("momentum", "resnet"), ("adamw", "vit")])
def test_training_continues_where_torch_stopped_and_back(kind: str, network: str) -> None:
    def make(module: torch.nn.Module) -> torch.optim.Optimizer:
        if kind == "momentum":
            return torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
        return torch.optim.AdamW(module.parameters(), 0.01)

    example = case(network)
    optimizer = make(example.module)
    train(example, optimizer, 2)
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, optimizer)
    step = Unplanned(model, example.batch)
    for _ in range(3):
        step()
    planc.torch.load_into(example.module, step.state, optimizer)
    reference = case(network)
    reference_optimizer = make(reference.module)
    train(reference, reference_optimizer, 5)
    assert worst_difference(step.state, reference.module) < 1e-3
    for mine, theirs in zip(optimizer.state.values(), reference_optimizer.state.values(), strict=True):
        for key, value in theirs.items():
            np.testing.assert_allclose(mine[key], value, atol=1e-3)


def test_dropout_gradients_match_finite_differences() -> None:
    torch.manual_seed(3)
    example = gpt(dropout=0.3)
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, Optimizer("sgd", 1.0))
    first = Unplanned(model, example.batch)
    before = dict(first.state)
    first()
    gradients = {name: before[name] - first.state[name] for name in before}
    direction = {name: g / np.sqrt(sum((v**2).sum() for v in gradients.values())) for name, g in gradients.items()}
    slope = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
    eps, losses = 1e-2, []
    for sign in (1, -1):
        moved = Unplanned(model, example.batch)  # a new session draws the same masks in its first run
        moved.state = {name: (v + sign * eps * direction[name]).astype(v.dtype) for name, v in before.items()}
        losses.append(moved())
    assert (losses[0] - losses[1]) / (2 * eps) == pytest.approx(slope, rel=1e-2)


def test_dropout_drops_the_stated_share_and_saves_a_byte_per_element() -> None:
    class Dropped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x * self.scale, 0.25)

    x = torch.ones(100, 1000)
    example = Case(Dropped(), lambda y: y.mean(), (x, None))
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, Optimizer("sgd"))
    assert Unplanned(model, x)() == pytest.approx(1.0, abs=0.01)
    produced = {o: n for n in model.graph.node for o in n.output}
    masks = {i for n in model.graph.node if node_annotation(n)[2] == "backward" for i in n.input
             if i in produced and produced[i].op_type == "Dropout"}  # fmt: skip
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert {types[m] for m in masks} == {9}


def test_layers_come_from_the_module_hierarchy() -> None:
    example = case("gpt")
    model = planc.torch.export_training_step(example.module, example.loss, example.batch, Optimizer("adam"))
    groups = {node_annotation(n) for n in model.graph.node}
    for phase in ("forward", "backward"):
        assert {("blocks.0.ln1", "layer-norm", phase), ("blocks.1.attention", "attention", phase)} <= groups
        assert {("blocks.1.qkv", "linear", phase), ("loss", "cross-entropy", phase)} <= groups
    updates = {layer for layer, _, phase in groups if phase == "update"}
    assert "tokens" in updates  # the tied weight: updated once, where its last reader is
    assert "head" not in updates
