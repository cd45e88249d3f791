"""Layer- and RMS-norms in the forms for a card, from all sources: one operator each way, and torch's numbers."""

from typing import Any

import numpy as np
import onnx
import pytest
from support.training_contract import violations
from support.training_steps import run_steps

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

import planc.torch
from planc.training import Optimizer, differentiate
from planc.training.emit.widen import widen
from planc.training.layout.calls import is_call
from planc.zoo import ZooOptions, build_forward

WIDTH = 24


class WrittenOutRMSNorm(nn.Module):
    """As transformers has it, with 1 added to the weight where `plus_one`, and wrong where `wrong`."""

    def __init__(self, plus_one: float = 0.0, wrong: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.variance_epsilon, self.plus_one, self.wrong = 1e-6, plus_one, wrong

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.float32) if hidden.dtype != torch.float64 else hidden
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon + self.wrong)
        return (self.plus_one + self.weight) * wide.to(hidden.dtype)


class Model(nn.Module):
    """Two residual blocks behind norms, and a norm at the end."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList([norm() for _ in range(3)])
        self.inner = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.inner[0](x)
        h = h + torch.tanh(self.inner[1](self.norms[0](h)))
        h = h + torch.tanh(self.inner[2](self.norms[1](h)))
        made: Tensor = self.norms[2](h)
        return made


NORMS = {
    "layer-norm": lambda: nn.LayerNorm(WIDTH),
    "without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "without weight": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "rms-norm": lambda: nn.RMSNorm(WIDTH, eps=1e-6),
    "rms-norm without weight": lambda: nn.RMSNorm(WIDTH, elementwise_affine=False),
    "written out": WrittenOutRMSNorm,
    "written out, plus one": lambda: WrittenOutRMSNorm(1.0),
}


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, 3, WIDTH, generator=generator) for _ in range(2))
    return x, y


def _own(step: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in step.graph.node if is_call(node, operator)]


def _trained(step: onnx.ModelProto) -> dict[str, Any]:
    feeds = dict(zip((i.name for i in step.graph.input), (t.numpy() for t in _batch()), strict=False))
    return run_steps(widen(step, "cpu"), feeds)[0]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_traced_norms_are_torchs(name: str, device: str) -> None:
    model, (x, y) = Model(NORMS[name]), _batch()
    step = planc.torch.export_training_step(model, nn.functional.mse_loss, (x, y), Optimizer("sgd", 1.0), device=device)
    assert violations(step) == []
    if device == "cuda":
        assert len(_own(step, "LayerNorm")) == 3
        assert sorted(len(node.input) for node in _own(step, "LayerNormGradient")) == [4, 5, 5]
    result, exact = _trained(step), Model(NORMS[name]).double()
    nn.functional.mse_loss(exact(x.double()), y.double()).backward()
    for parameter_name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{parameter_name}.next"], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_only_called_an_rms_norm_is_left_alone() -> None:
    model, batch = Model(lambda: WrittenOutRMSNorm(0.0, 1e-3)), _batch()
    step = planc.torch.export_training_step(model, nn.functional.mse_loss, batch, Optimizer("sgd"), device="cuda")
    assert not _own(step, "LayerNorm")


@pytest.mark.parametrize("name", ["layer-norm", "written out"])
def test_casts_of_mixed_precision_join_traced_norms(name: str) -> None:
    model, batch = Model(NORMS[name]), _batch()
    step = planc.torch.export_training_step(
        model, nn.functional.mse_loss, batch, Optimizer("sgd", 1.0), device="cuda", autocast=torch.bfloat16
    )
    assert violations(step) == []
    values = {v.name: v.type.tensor_type.elem_type for v in (*step.graph.value_info, *step.graph.output)}
    inner = _own(step, "LayerNorm")[:2]
    assert [values[node.output[0]] for node in inner] == [onnx.TensorProto.BFLOAT16] * 2
    read = [values[node.input[0]] for node in _own(step, "LayerNormGradient") if len(node.input) == 5]
    assert read == [onnx.TensorProto.BFLOAT16] * 2
    single = planc.torch.export_training_step(
        model, nn.functional.mse_loss, batch, Optimizer("sgd", 1.0), device="cuda"
    )
    found, wanted = _trained(step), _trained(single)
    for key in (k for k in wanted if k.endswith("weight.next")):
        np.testing.assert_allclose(found[key], wanted[key], rtol=0.03, atol=0.01)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_networks_norms_are_the_same_in_both_forms(precision: str) -> None:
    forward = build_forward("gpt2", ZooOptions(batch=2, seq=16, depth=2, width=64, classes=50))
    made = [
        differentiate(forward.model, loss=forward.loss, optimizer=Optimizer("sgd", 1.0), device=d, precision=precision)
        for d in ("cuda", "cpu")
    ]
    assert [len(_own(made[0], op)) for op in ("LayerNorm", "LayerNormGradient")] == [5, 5]
    assert not [n for n in made[0].graph.node if n.op_type == "LayerNormalization"]
    ids = np.random.default_rng(0).integers(0, 50, (2, 2, 16))
    batch = [i.name for i in made[0].graph.input if i.name not in {t.name for t in made[0].graph.initializer}]
    mine, plain = (run_steps(widen(step, "cpu"), dict(zip(batch, ids, strict=True)))[0] for step in made)
    for name in (n for n in plain if n.endswith(".next") and plain[n].dtype == np.float32):
        tolerance = 1e-4 if precision == "float32" else 0.05
        np.testing.assert_allclose(mine[name], plain[name], rtol=tolerance, atol=tolerance)


def test_a_tied_embeddings_gradient_is_added_to_the_projections() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Embedding(11, 8)

        def forward(self, ids: Tensor) -> Tensor:
            made: Tensor = torch.tanh(self.embed(ids)) @ self.embed.weight.T
            return made

    ids, labels = (torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(k)) for k in range(2))

    step = planc.torch.export_training_step(
        Tied(), lambda scores, _: scores.square().mean(), (ids, labels), Optimizer("sgd", 1.0), device="cuda"
    )
    assert [len(node.input) for node in _own(step, "EmbeddingGradient")] == [3]
    batch = [i.name for i in step.graph.input if i.name not in {t.name for t in step.graph.initializer}]
    result = run_steps(step, dict(zip(batch, (ids.numpy(), labels.numpy()), strict=False)))[0]
    exact = Tied().double()
    exact(ids).square().mean().backward()
    assert exact.embed.weight.grad is not None
    wanted = (exact.embed.weight - exact.embed.weight.grad).detach().numpy()
    np.testing.assert_allclose(result["embed.weight.next"], wanted, rtol=1e-4, atol=1e-5)


class Images(nn.Module):
    """Group- and instance-norms of images, with and without affine parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.norm = nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6)
        self.again, self.alone = nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2, 6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.inner(x)))
        made: Tensor = self.alone(torch.tanh(self.again(h)) + h)
        return made


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_traced_group_norms_are_torchs(device: str) -> None:
    x, y = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(2)) for shape in ((3, 7, 6), (6, 5, 4)))
    step = planc.torch.export_training_step(
        Images(), nn.functional.mse_loss, (x, y), Optimizer("sgd", 1.0), device=device
    )
    assert violations(step) == []
    if device == "cuda":
        assert len(_own(step, "GroupNormGradient")) >= 2
    feeds = dict(zip((i.name for i in step.graph.input), (x.numpy(), y.numpy()), strict=False))
    result, exact = run_steps(step, feeds)[0], Images().double()
    nn.functional.mse_loss(exact(x.double()), y.double()).backward()
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        wanted = (parameter - parameter.grad).detach().numpy()
        np.testing.assert_allclose(result[f"{name}.next"], wanted, rtol=1e-4, atol=2e-5)
