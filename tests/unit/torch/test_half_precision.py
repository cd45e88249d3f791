"""Autocast and half-precision modules: float32 masters, torch's values, the same bits planned and not."""

from typing import Any

import numpy as np
import pytest
from support.training_contract import violations
from support.training_steps import run_steps, state_pairs

import planc

torch = pytest.importorskip("torch")
nn = torch.nn

import planc.torch  # noqa: E402 - only with torch


class Block(nn.Module):  # type: ignore[misc,name-defined]
    """A convolution, a norm and a head: sums of every kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.LayerNorm(6), nn.Linear(24, 3)

    def forward(self, x: Any) -> Any:
        return self.head(nn.functional.gelu(self.norm(self.conv(x))).flatten(2).mean(1).repeat(1, 1)[:, :24])


def data() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 2, 6, 6, generator=generator), torch.randint(3, (5,), generator=generator)


def loss(logits: Any, labels: Any) -> Any:
    return nn.functional.cross_entropy(logits.float(), labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_follows_torch(dtype: Any) -> None:
    module, reference, (x, y) = Block(), Block(), data()
    model = planc.torch.export_training_step(
        module, loss, (x, y), torch.optim.SGD(module.parameters(), 0.1), autocast=dtype
    )
    assert violations(model) == []
    results = run_steps(model, {"x": x.numpy(), "labels": y.numpy()}, 3)
    optimizer = torch.optim.SGD(reference.parameters(), 0.1)
    for result in results:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            expected = loss(reference(x), y)
        expected.backward()
        optimizer.step()
        np.testing.assert_allclose(result["loss"], expected.item(), rtol=5e-3)
    state = {name: results[-1][following] for name, following in state_pairs(model).items()}
    for name, value in reference.named_parameters():
        assert state[name].dtype == np.float32
        np.testing.assert_allclose(state[name], value.detach().numpy(), rtol=0.02, atol=2e-3)


def test_a_bfloat16_module_trains_float32_masters() -> None:
    """Steps too small for bfloat16 add up; the module gets them rounded."""
    module, (x, y) = Block().to(torch.bfloat16), data()
    start = module.head.bias.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    quick: dict[str, Any] = {"device": "cpu", "time_limit": 1.0}
    with planc.torch.compile_step(module, loss, optimizer, (x.bfloat16(), y), budget="min", **quick) as step:
        losses = [float(step(x.bfloat16(), y)) for _ in range(3)]
        master = step.training.state()["head.bias"]
        evaluated = step.evaluate(x.bfloat16())
    assert master.dtype == np.float32
    assert evaluated.dtype == torch.bfloat16
    assert losses[2] < losses[0]
    assert not np.array_equal(master, start.float().numpy())
    assert torch.equal(module.head.bias, torch.from_numpy(master).bfloat16())


class Narrowing(nn.Module):  # type: ignore[misc,name-defined]
    """A half-precision module that is fed float32."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block().to(torch.bfloat16)

    def forward(self, x: Any) -> Any:
        return self.block(x.bfloat16())


def test_planned_and_unplanned_bits_agree() -> None:
    module, (x, y) = Narrowing(), data()
    model = planc.torch.export_training_step(module, loss, (x, y), torch.optim.AdamW(module.parameters(), 1e-3))
    feeds = {"x": x.numpy(), "labels": y.numpy()}
    expected = run_steps(model, feeds, 3)
    with planc.load(planc.compile(model, budget="min", device="cpu", time_limit=1), model) as step:
        for result in expected:
            assert step(feeds)["loss"] == result["loss"]
        for name, following in state_pairs(model).items():
            assert step.state()[name].tobytes() == expected[-1][following].tobytes(), name


def test_a_step_that_overflows_changes_nothing_and_says_so() -> None:
    """With a GradScaler whose scale is too large at first, step by step as torch's own loop with it."""
    (x, y), module, reference = data(), Block(), Block()
    optimizer, other = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (module, reference))
    start = 2.0**24
    scaler, theirs = (torch.amp.GradScaler("cpu", init_scale=start, growth_interval=2) for _ in range(2))
    half: dict[str, Any] = {"autocast": torch.float16, "loss_scale": scaler, "clip_norm": 0.5}
    found, expected = [], []
    with planc.torch.compile_step(
        module, loss, optimizer, (x, y), budget="100%", device="cpu", time_limit=1.0, **half
    ) as step:
        for _ in range(16):
            before = step.training.state()["head.bias"]
            step(x, y)
            assert step.skipped == np.array_equal(before, step.training.state()["head.bias"])
            found.append(step.skipped)
            scale = theirs.get_scale()
            other.zero_grad()
            with torch.autocast("cpu", torch.float16):
                value = loss(reference(x), y)
            theirs.scale(value).backward()
            theirs.unscale_(other)
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            theirs.step(other)
            theirs.update()
            expected.append(theirs.get_scale() < scale)
    assert found == expected
    assert 0 < sum(found) < 16
    for (name, made), wanted in zip(module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(made, wanted, rtol=0.05, atol=5e-3, msg=name)


def test_a_bfloat16_module_draws_random_numbers() -> None:
    """Generators have kernels in one opset only, and make what they are told to."""

    class Noisy(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3).to(torch.bfloat16)

        def forward(self, x: Any) -> Any:
            narrow = x.bfloat16()
            return (
                self.head(narrow)
                + torch.randn_like(narrow[:, :1])
                + torch.bernoulli(torch.full_like(narrow[:, :1], 0.5))
            )

    module, x = Noisy(), torch.zeros(4096, 2)
    model = planc.torch.export_training_step(
        module,
        lambda y: {"loss": y.float().mean(), "y": y.float()},
        (x, None),
        torch.optim.SGD(module.parameters(), 0.1),
    )
    noise = run_steps(model, {"x": x.numpy()})[0]["y"] - module.head.bias.detach().float().numpy()
    assert abs(noise[:, 0].mean() - 0.5) < 0.1
    assert abs(noise[:, 0].var() - 1.25) < 0.15
    assert len(np.unique(noise[:, 0])) > 100
