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
    with pytest.raises(FeedError) as refused:
        step(*data(5))
    assert "no plan for a batch of shapes inputs[0] [5, 6], targets[0] [5]: " in str(refused.value)
    assert "; call add_shape with such a batch, or compile_step(..., new_shapes=True), or leave " in str(refused.value)
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


def test_a_batch_that_waits_for_a_gradient_is_refused() -> None:
    model = torch.nn.Linear(6, 3)
    x, y = torch.randn(4, 6), torch.randint(0, 3, (4,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with planc.torch.compile_step(model, torch.nn.CrossEntropyLoss(), optimizer, (x, y), time_limit=1) as step:
        before = float(step(x, y))
        with pytest.raises(
            FeedError, match=r"requires a gradient, which the step does not give it: pass tensor.detach"
        ):
            step(x.clone().requires_grad_(), y)
        with pytest.raises(FeedError, match=r"is 3 at \[0\], the model takes 0 to 2 \(3 classes\)"):
            step(x, torch.full((4,), 3))
        with pytest.raises(FeedError, match=r"leave the last batch of an epoch out \(drop_last=True\)"):
            step(x[:2], y[:2])
        assert step.steps == 1
        assert float(step(x, y)) < before


def test_random_numbers_go_on_from_one_shape_to_the_next(tmp_path: Path) -> None:
    """With every other batch a short one, a training that was taken up draws what the whole one drew."""

    def made() -> Any:
        module = Net(dropout=0.5)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        return planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data(), new_shapes=True, **QUICK)

    sizes = (8, 8, 5, 8, 5, 5, 8, 5)
    with made() as step:
        for at, size in enumerate(sizes):
            step(*data(size, at))
            assert step.training.generators.drawn == at + 1
            if at == 3:
                step.save(tmp_path / "c.safetensors")
        final = step.training.state()
    with made() as step:
        step(*data(5))
        step.load(tmp_path / "c.safetensors")
        for at, size in enumerate(sizes[4:], 4):
            step(*data(size, at))
        for name, value in step.training.state().items():
            assert value.tobytes() == final[name].tobytes(), name


def test_a_share_of_the_peak_holds_for_other_shapes_and_evaluation() -> None:
    """A small batch, whose own share would not hold the parameters, may take what the first plan was given."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    given = {**QUICK, "budget": "85%"}
    with planc.torch.compile_step(
        module, nn.CrossEntropyLoss(), optimizer, data(256), new_shapes=True, **given
    ) as step:
        budget = step.training.plan.memory.budget_bytes
        step(*data(256))
        step(*data(2))
        step.evaluate(data(2)[0])
        assert step.training.plan.memory.budget_bytes == budget


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


@pytest.mark.parametrize("form", [lambda loss: loss, lambda loss: (loss,), lambda loss: {"loss": loss}])
def test_a_loss_alone_keeps_its_form(form: Any) -> None:
    module, (x, y) = Net(), data()
    loss = lambda logits, labels: form(nn.functional.cross_entropy(logits, labels))  # noqa: E731
    expected = loss(copy.deepcopy(module)(x), y)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with planc.torch.compile_step(module, loss, optimizer, data(), **QUICK) as step:
        torch.testing.assert_close(step(x, y), torch.utils._pytree.tree_map(torch.Tensor.detach, expected))


class Tempered(nn.Module):  # type: ignore[misc,name-defined]
    """A loss with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean_loss", torch.zeros(()))

    def forward(self, logits: Any, labels: Any) -> Any:
        value = nn.functional.cross_entropy(logits * self.log_scale.exp(), labels)
        self.mean_loss.mul_(0.9).add_(value.detach(), alpha=0.1)
        return value


def test_a_loss_that_is_trained_too_is_part_of_the_state(tmp_path: Path) -> None:
    modules, losses = [Net(), Net()], [Tempered(), Tempered()]
    ours, theirs = (
        torch.optim.Adam([*m.parameters(), *criterion.parameters()], 0.05)
        for m, criterion in zip(modules, losses, strict=True)
    )
    with planc.torch.compile_step(modules[0], losses[0], ours, data(), **QUICK) as step:
        for seed in range(4):
            x, y = data(seed=seed)
            found = step(x, y)
            theirs.zero_grad()
            expected = losses[1](modules[1](x), y)
            expected.backward()
            theirs.step()
            assert float(found) == pytest.approx(expected.item(), rel=1e-5)
        step.save(tmp_path / "state")
        step(*data(seed=9))
        step.load(tmp_path / "state")
        with torch.no_grad():
            losses[0].log_scale.fill_(1.0)
        with pytest.raises(UsageError, match="'loss.log_scale' was written in place"):
            step(*data())
        with torch.no_grad():
            losses[0].log_scale.copy_(losses[1].log_scale)
        step.refresh()
    for a, b in zip(
        (*losses[0].state_dict().values(), *modules[0].state_dict().values()),
        (*losses[1].state_dict().values(), *modules[1].state_dict().values()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
