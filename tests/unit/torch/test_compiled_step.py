"""`compile_step` as a user meets it: loss curves, schedulers, outputs, shapes, evaluation, checkpoints."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.errors import FeedError, UsageError

torch = pytest.importorskip("torch")
nn = torch.nn

import planc.torch  # noqa: E402 - only with torch

QUICK: dict[str, Any] = {"budget": "100%", "device": "cpu", "time_limit": 1.0}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


class Net(nn.Module):  # type: ignore[misc,name-defined]
    """A classifier with batch-norm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


def data(size: int = 8, seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


def with_logits(logits: Any, labels: Any) -> dict[str, Any]:
    hits = (logits.argmax(1) == labels).float().mean()
    return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits, "accuracy": hits}


def test_two_changed_lines_follow_torch_through_a_schedule() -> None:
    module, reference = Net(), Net()
    groups = lambda m: [{"params": m.body.parameters(), "lr": 0.05}, {"params": m.head.parameters()}]  # noqa: E731
    optimizer, other = (torch.optim.AdamW(groups(m), lr=0.1) for m in (module, reference))
    planned, usual = (torch.optim.lr_scheduler.OneCycleLR(o, [0.1, 0.2], 6) for o in (optimizer, other))
    step = planc.torch.compile_step(module, with_logits, optimizer, data(), clip_norm=0.5, **QUICK)
    with step:
        for seed in range(6):
            x, y = data(seed=seed)
            found = step(x, y)
            other.zero_grad()
            expected = with_logits(reference(x), y)
            expected["loss"].backward()
            norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
            other.step()
            assert set(found) == {"loss", "logits", "accuracy"}
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value.detach(), rtol=2e-5, atol=2e-6)
            torch.testing.assert_close(torch.tensor(step.gradient_norm), norm, rtol=1e-5, atol=0.0)
            planned.step()
            usual.step()
        evaluated = step.evaluate(x)
    reference.eval()
    torch.testing.assert_close(evaluated, reference(x).detach(), rtol=1e-4, atol=1e-5)
    assert module.training, "evaluation leaves the module as it was"
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    state = other.state[reference.head.weight]
    torch.testing.assert_close(optimizer.state[module.head.weight]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-6)
    assert float(optimizer.state[module.head.weight]["step"]) == 6


def test_settings_that_were_compiled_in_must_not_change() -> None:
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), **QUICK) as step:
        step(*data())
        optimizer.param_groups[0]["weight_decay"] = 0.1
        with pytest.raises(UsageError, match="compile it again"):
            step(*data())
        optimizer.param_groups[0]["weight_decay"] = 0
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        with pytest.raises(UsageError, match="other parameter groups"):
            step(*data())


def test_shapes_share_one_state() -> None:
    """Two full batches, a short one, another full one: as eager torch does them."""
    module, reference = Net(), Net()
    optimizer, other = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (module, reference))
    step = planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), **QUICK)
    with pytest.raises(FeedError, match=r"no plan for a batch of shapes \[5, 6\], \[5\].*add_shape"):
        step(*data(5))
    step.add_shape(*data(5))
    with step:
        for seed, size in enumerate((8, 8, 5, 8)):
            x, y = data(size, seed)
            other.zero_grad()
            expected = nn.functional.cross_entropy(reference(x), y)
            expected.backward()
            other.step()
            torch.testing.assert_close(step(x, y), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.head.weight, reference.head.weight, rtol=1e-5, atol=1e-6)


def test_micro_batches_of_one_call() -> None:
    module, reference = Net(), Net()
    optimizer, other = (torch.optim.SGD(m.parameters(), 0.1) for m in (module, reference))
    x, y = data(8)
    with planc.torch.compile_step(
        module, nn.CrossEntropyLoss(), optimizer, (x[:4], y[:4]), accumulate=2, **QUICK
    ) as step:
        found = step(x, y)
        with pytest.raises(FeedError, match="cannot be cut into 2 micro-batches"):
            step(x[:7], y[:7])
    parts = [nn.functional.cross_entropy(reference(a), b) / 2 for a, b in zip(x.split(4), y.split(4), strict=True)]
    sum(parts).backward()
    other.step()
    torch.testing.assert_close(found, sum(parts).detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(module.head.weight, reference.head.weight, rtol=1e-5, atol=1e-6)


def trained(step: Any, batches: Any, scheduler: Any, count: int) -> list[Any]:
    losses = []
    while len(losses) < count:
        for x, y in batches:
            losses.append(step(x, y))
            scheduler.step()
            if len(losses) == count:
                break
    return losses


def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Dropout, shuffling, schedule and moments: five steps, and five more in a new process's objects."""

    def made() -> tuple[Any, Any, Any]:
        module = Net(dropout=0.3)
        optimizer = torch.optim.AdamW(module.parameters(), 0.05)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 12)
        dataset = torch.utils.data.TensorDataset(*data(24))
        batches = planc.torch.Batches(torch.utils.data.DataLoader(dataset, 8, shuffle=True))
        step = planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), seed=3, **QUICK)
        return step, batches, scheduler

    step, batches, scheduler = made()
    torch.manual_seed(5)
    trained(step, batches, scheduler, 4)  # in the middle of the second epoch
    step.save(tmp_path / "c.safetensors", batches=batches, scheduler=scheduler, note="halfway")
    whole = trained(step, batches, scheduler, 5)
    final = step.training.state()
    step.close()

    step, batches, scheduler = made()
    trained(step, batches, scheduler, 1)
    assert step.load(tmp_path / "c.safetensors", batches=batches, scheduler=scheduler) == {"note": "halfway"}
    assert (step.steps, batches.epoch, batches.batch) == (4, 1, 1)
    drawn = (random.random(), np.random.rand(), torch.rand(1))
    step.load(tmp_path / "c.safetensors", batches=batches, scheduler=scheduler)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1))
    step.load(tmp_path / "c.safetensors", batches=batches, scheduler=scheduler)
    assert [float(a) for a in trained(step, batches, scheduler, 5)] == [float(b) for b in whole]
    for name, value in step.training.state().items():
        assert value.tobytes() == final[name].tobytes(), name
    step.close()


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), **QUICK) as step:
        step(*data())
        before = step.training.state()
        step.save(tmp_path / "c.safetensors")
        step.training.save_state(tmp_path / "s.safetensors")
        with pytest.raises(FeedError, match="no state of 'scheduler'"):
            step.load(tmp_path / "c.safetensors", scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer))
        with pytest.raises(FeedError, match="not a file that CompiledStep.save wrote"):
            step.load(tmp_path / "s.safetensors")
        with pytest.raises(UsageError, match="the state of 'thing' is no plain data"):
            step.save(tmp_path / "d.safetensors", thing=object())
        for name, value in step.training.state().items():
            assert value.tobytes() == before[name].tobytes()


def test_a_module_that_was_changed_is_taken_over() -> None:
    module = Net()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    fresh = copy.deepcopy(module.state_dict())
    with planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), **QUICK) as step:
        first = step(*data())
        step.sync()
        module.load_state_dict(fresh)
        step.refresh()
        assert float(step(*data())) == float(first)


def test_a_module_that_computes_its_own_loss() -> None:
    class Own(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Any, labels: Any) -> Any:
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    module, (x, y) = Own(), data()
    expected = copy.deepcopy(module)(x, y)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with planc.torch.compile_step(module, None, optimizer, {"x": x, "labels": y}, **QUICK) as step:
        found = step({"x": x, "labels": y})
    torch.testing.assert_close(found["loss"], expected["loss"].detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found["logits"], expected["logits"].detach(), rtol=1e-5, atol=1e-6)
