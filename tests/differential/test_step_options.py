"""Optimizers, clipping, accumulation, loss scales and averages against torch, in float64 where rounding cannot hide."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.training_contract import violations
from support.training_steps import run_steps, session, state_pairs

from planc.errors import UsageError
from planc.training import Optimizer, differentiate
from planc.training.step_options import DynamicScale, StepOptions

torch = pytest.importorskip("torch")
nn = torch.nn

from planc.torch.assemble import assemble  # noqa: E402 - only with torch
from planc.torch.rules import HANDLERS  # noqa: E402
from planc.torch.settings import settings_of  # noqa: E402
from planc.torch.trace import trace_step  # noqa: E402
from planc.training.emit.forms import CPU  # noqa: E402

Parameters = Iterable[Any]
Make = Callable[[Parameters], Any]
STEPS = 4


class Small(nn.Module):  # type: ignore[misc,name-defined]
    """Two linear layers around a batch-norm, with a parameter of rank three, in float64."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.last = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.extra = nn.Parameter(torch.randn(2, 3, 3))
        self.double()

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.norm(self.first(x)))) @ self.extra.mean(0)


def batch(size: int = 8) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 5, generator=generator).double(), torch.randint(3, (size,), generator=generator)


def exported(module: Any, x: Any, y: Any, optimizer: Any, **options: Any) -> onnx.ModelProto:
    traced = trace_step(module, nn.CrossEntropyLoss(), (x,), {}, (y,), list(HANDLERS))
    parameters = {i.name: i.value for i in traced.inputs if i.kind == "parameter"}
    return assemble(traced, ["x", "labels"], settings_of(optimizer, parameters, StepOptions(**options)), CPU)


def state_after(model: onnx.ModelProto, feeds: dict[str, Any], steps: int = STEPS) -> dict[str, np.ndarray[Any, Any]]:
    results = run_steps(model, {name: np.asarray(value) for name, value in feeds.items()}, steps)
    return {name: results[-1][following] for name, following in state_pairs(model).items()}


def assert_trained_alike(state: dict[str, Any], module: Any, tolerance: float = 1e-9) -> None:
    for name, value in module.state_dict().items():
        if name in state:
            np.testing.assert_allclose(state[name], value.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "sgd-decay-maximize": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.3, maximize=True),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    "dampening": lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, dampening=0.3),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.05, amsgrad=True),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, 0.05, (0.7, 0.9), 1e-3, 0.2, amsgrad=True, maximize=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.02),
    "rmsprop-whole": lambda p: torch.optim.RMSprop(p, 0.02, 0.9, 1e-3, 0.1, 0.7, True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.2, weight_decay=0.1, initial_accumulator_value=0.5),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.3, weight_decay=0.1, eps=(None, 1e-3), d=1.5),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_of_torch(kind: str) -> None:
    module, (x, y) = Small(), batch()
    model = exported(module, x, y, OPTIMIZERS[kind](module.parameters()))
    assert violations(model) == []
    reference = copy.deepcopy(module)
    optimizer = OPTIMIZERS[kind](reference.parameters())
    train(reference, optimizer, x, y)
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference)


def train(module: Any, optimizer: Any, x: Any, y: Any, steps: int = STEPS, between: Callable[[], Any] = int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        between()
        optimizer.step()


def gradients(module: Any, x: Any, y: Any) -> dict[str, Any]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(nn.functional.cross_entropy(module(x), y), parameters), strict=True))


def test_lion_follows_its_paper() -> None:
    """w (1 - lr decay) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g."""
    module, (x, y) = Small(), batch()
    rule = Optimizer("lion", 0.01, betas=(0.9, 0.99), weight_decay=0.5)
    model = exported(module, x, y, rule)
    reference = copy.deepcopy(module)
    moments = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for _ in range(STEPS):
        found = gradients(reference, x, y)
        with torch.no_grad():
            for name, p in reference.named_parameters():
                m, g = moments[name], found[name]
                p.mul_(1 - 0.01 * 0.5).sub_(0.01 * torch.sign(0.9 * m + 0.1 * g))
                m.mul_(0.99).add_(g, alpha=0.01)
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference)


def newton_schulz(a: Any, steps: int = 5, eps: float = 1e-7) -> Any:
    x = a.T if a.shape[0] > a.shape[1] else a
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if a.shape[0] > a.shape[1] else x


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_follows_torch_in_full_precision(nesterov: bool) -> None:
    """torch iterates in bfloat16; the same formulas in float64 are the reference."""
    module, (x, y) = (
        nn.Sequential(nn.Linear(5, 7, bias=False), nn.Tanh(), nn.Linear(7, 3, bias=False)).double(),
        batch(),
    )
    made = torch.optim.Muon(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    model = exported(module, x, y, made)
    reference = copy.deepcopy(module)
    velocities = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for _ in range(STEPS):
        found = gradients(reference, x, y)
        with torch.no_grad():
            for name, p in reference.named_parameters():
                v, g = velocities[name], found[name]
                v.lerp_(g, 1 - 0.9)
                moved = newton_schulz(g.lerp(v, 0.9) if nesterov else v)
                p.mul_(1 - 0.02 * 0.1).sub_(0.02 * max(1, p.shape[0] / p.shape[1]) ** 0.5 * moved)
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference)


def test_muon_takes_matrices_only() -> None:
    module, (x, y) = Small(), batch()
    with pytest.raises(UsageError, match="Muon updates matrices only; .* has shape"):
        exported(module, x, y, Optimizer("muon"))


@pytest.mark.parametrize("order", [2.0, float("inf")])
def test_clipping_by_norm(order: float) -> None:
    module, (x, y) = Small(), batch()
    model = exported(module, x, y, torch.optim.Adam(module.parameters(), 0.05), clip_norm=0.2, norm_order=order)
    reference, norms = copy.deepcopy(module), list[float]()
    clip = lambda: norms.append(float(nn.utils.clip_grad_norm_(reference.parameters(), 0.2, order)))  # noqa: E731
    train(reference, torch.optim.Adam(reference.parameters(), 0.05), x, y, between=clip)
    assert min(norms) > 0.2, "nothing would be clipped"
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference, 1e-6)  # the norm is a float32
    results = run_steps(model, {"x": x.numpy(), "labels": y.numpy()}, STEPS)
    np.testing.assert_allclose([r["gradient_norm"] for r in results], norms, rtol=1e-6)


def test_clipping_by_value() -> None:
    module, (x, y) = Small(), batch()
    model = exported(module, x, y, torch.optim.SGD(module.parameters(), 0.5), clip_value=0.02)
    assert violations(model) == []
    reference = copy.deepcopy(module)
    clip = lambda: nn.utils.clip_grad_value_(reference.parameters(), 0.02)  # noqa: E731
    train(reference, torch.optim.SGD(reference.parameters(), 0.5), x, y, between=clip)
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"clip_value": 0.02}], ids=str)
def test_accumulation_is_torchs(options: dict[str, float]) -> None:
    """Three micro-batches in a step: mean gradient, running statistics updated three times, in order."""
    module, (x, y) = Small(), batch(12)
    make = lambda p: torch.optim.AdamW(p, 0.05)  # noqa: E731
    model = exported(module, x[:4], y[:4], make(module.parameters()), accumulate=3, **options)
    reference = copy.deepcopy(module)
    optimizer, losses = make(reference.parameters()), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        parts = [nn.functional.cross_entropy(reference(a), b) / 3 for a, b in zip(x.split(4), y.split(4), strict=True)]
        for part in parts:
            part.backward()
        losses.append(float(sum(parts).detach()))
        if "clip_norm" in options:
            nn.utils.clip_grad_norm_(reference.parameters(), options["clip_norm"])
        if "clip_value" in options:
            nn.utils.clip_grad_value_(reference.parameters(), options["clip_value"])
        optimizer.step()
    feeds = {f"{name}{'' if i == 0 else f'@{i + 1}'}": part for name, whole in (("x", x), ("labels", y))
             for i, part in enumerate(whole.split(4))}  # fmt: skip
    results = run_steps(model, {name: part.numpy() for name, part in feeds.items()}, STEPS)
    np.testing.assert_allclose([r["loss"] for r in results], losses, rtol=1e-7)
    state = {name: results[-1][following] for name, following in state_pairs(model).items()}
    assert_trained_alike(state, reference, 1e-6 if "clip_norm" in options else 1e-9)
    assert state["norm.num_batches_tracked"] == 3 * STEPS


def test_averaged_weights() -> None:
    module, (x, y) = Small(), batch()
    model = exported(module, x, y, torch.optim.SGD(module.parameters(), 0.5), ema_decay=0.7)
    assert violations(model) == []
    reference = copy.deepcopy(module)
    means = {name: p.detach().clone() for name, p in reference.named_parameters()}
    for _ in range(STEPS):
        train(reference, torch.optim.SGD(reference.parameters(), 0.5), x, y, steps=1)
        for name, p in reference.named_parameters():
            means[name].lerp_(p.detach(), 1 - 0.7)
    state = state_after(model, {"x": x, "labels": y})
    for name, mean in means.items():
        np.testing.assert_allclose(state[f"{name}.ema"], mean.numpy(), rtol=1e-11, atol=1e-12)


def test_a_fixed_loss_scale_changes_nothing_but_rounding() -> None:
    module, (x, y) = Small(), batch()
    model = exported(module, x, y, torch.optim.SGD(module.parameters(), 0.5), loss_scale=1024.0)
    reference = copy.deepcopy(module)
    train(reference, torch.optim.SGD(reference.parameters(), 0.5), x, y)
    assert_trained_alike(state_after(model, {"x": x, "labels": y}), reference)


def test_a_scale_of_its_own_follows_torch() -> None:
    """Steps that overflow are skipped and halve the scale, finite ones double it, as GradScaler does."""
    options = StepOptions(loss_scale=DynamicScale(2.0**126, 2.0, 0.5, 3))
    w = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0)],
        "f",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("loss", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    step = differentiate(model, loss="output", optimizer=Optimizer("adam", 0.1), options=options)
    xs = [np.array([[s, -s]], np.float32) for s in (8.0, 4.0, 0.5, 0.5, 0.5, 0.5, 8.0, 0.25)]

    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = torch.optim.Adam([parameter], 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_factor=2.0, backoff_factor=0.5, growth_interval=3)
    running, pairs, state = session(step), state_pairs(step), dict[str, Any]()
    names, skipped = [o.name for o in step.graph.output], 0
    for x in xs:
        before = parameter.detach().clone()
        optimizer.zero_grad()
        scaler.scale((torch.from_numpy(x) @ parameter).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        skipped += bool(torch.equal(before, parameter.detach()))
        outputs = dict(zip(names, running.run(names, {"x": x, **state}), strict=True))
        state = {name: outputs[following] for name, following in pairs.items()}
        assert state["loss_scale"] == scaler.get_scale()
        np.testing.assert_allclose(state["w"], parameter.detach().numpy(), rtol=2e-6)
    assert 0 < skipped < len(xs)
