"""Whole trainings of random actions, beside the same ones in eager torch: what one forgets, the other shows."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
nn = torch.nn

import planc.torch  # noqa: E402 - only with torch

BATCH = 4
LOSS = nn.CrossEntropyLoss(label_smoothing=0.1)
ACTIONS = ("step", "step", "short batch", "one micro-batch", "write and refresh", "evaluate", "save and load", "rate")


class Tied(nn.Module):  # type: ignore[misc,name-defined]
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = (
            nn.Linear(6, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 6),
            nn.Linear(6, 3),
        )
        self.second.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.second(self.norm(self.first(x)).tanh()))


def _statistics() -> Any:
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _partly_frozen() -> Any:
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3))
    module[2].weight.requires_grad_(False)
    return module


NETWORKS = {"tied": Tied, "statistics": _statistics, "partly frozen": _partly_frozen}
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05, "lr_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.02, "maximize": True}),
}


class Side:
    """One of the two trainings: network, optimizer with two groups, schedule."""

    def __init__(self, network: str, optimizer: str) -> None:
        torch.manual_seed(0)
        self.module = NETWORKS[network]()
        trained = [p for p in self.module.parameters() if p.requires_grad]
        kind, options = OPTIMIZERS[optimizer]
        groups = [{"params": trained[:2], "weight_decay": 0.05}, {"params": trained[2:], "lr": 0.03}]
        self.optimizer = kind(groups, **options)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 7)


def _eager(side: Side, x: Any, y: Any, count: int, clip: tuple[float | None, float | None]) -> float:
    side.optimizer.zero_grad()
    total = 0.0
    for part, labels in zip(x.chunk(count), y.chunk(count), strict=True):
        loss = LOSS(side.module(part), labels) / count
        loss.backward()
        total += loss.item()
    norm, value = clip
    if value:
        nn.utils.clip_grad_value_(side.module.parameters(), value)
    if norm:
        nn.utils.clip_grad_norm_(side.module.parameters(), norm)
    side.optimizer.step()
    return total


def _batch(rows: int) -> tuple[Any, Any]:
    return torch.randn(rows, 6), torch.randint(3, (rows,))


def _act(action: str, step: Any, ours: Side, theirs: Side, clip: Any, folder: Path) -> None:
    count = 1 if action == "one micro-batch" else step.maker.options.accumulate
    if action in ("step", "short batch", "one micro-batch"):
        x, y = _batch({"step": BATCH, "short batch": 3, "one micro-batch": 2}[action] * count)
        expected = _eager(theirs, x, y, count, clip)
        assert float(step(x, y, micro_batches=count)) == pytest.approx(expected, rel=3e-5, abs=3e-6)
        ours.schedule.step()
        theirs.schedule.step()
    elif action == "write and refresh":
        step.sync()
        with torch.no_grad():
            for side in (ours, theirs):
                next(iter(side.module.parameters())).mul_(0.9)
        step.refresh()
    elif action == "evaluate":
        x = torch.randn(3, 6)
        theirs.module.eval()
        torch.testing.assert_close(step.evaluate(x), theirs.module(x).detach(), rtol=1e-4, atol=2e-5)
        theirs.module.train()
    elif action == "rate":
        for side in (ours, theirs):
            side.optimizer.param_groups[0]["lr"] *= 0.7
    else:
        step.save(folder / "c.safetensors", schedule=ours.schedule)
        before = step.training.state()
        step(*_batch(BATCH * count))
        ours.schedule.step()
        step.load(folder / "c.safetensors", schedule=ours.schedule)
        assert all(value.tobytes() == before[name].tobytes() for name, value in step.training.state().items())


@settings(
    max_examples=6, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    clip=st.tuples(st.sampled_from([None, 0.3]), st.sampled_from([None, 0.05])),
    accumulate=st.sampled_from([1, 2]),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=6, max_size=8),
)
def test_a_training_of_random_actions_is_torchs(
    network: str,
    optimizer: str,
    clip: tuple[float | None, float | None],
    accumulate: int,
    actions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "plans"))
    folder = tmp_path_factory.mktemp("training")
    ours, theirs = Side(network, optimizer), Side(network, optimizer)
    options = {"clip_norm": clip[0], "clip_value": clip[1], "accumulate": accumulate, "new_shapes": True}
    with planc.torch.compile_step(
        ours.module, LOSS, ours.optimizer, _batch(BATCH), budget="100%", device="cpu", time_limit=0.5, **options
    ) as step:
        for action in actions:
            _act(action, step, ours, theirs, clip, folder)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], value, rtol=2e-4, atol=2e-5, msg=name)
    pairs = zip(ours.module.parameters(), theirs.module.parameters(), strict=True)
    for mine, other in pairs:
        known = {k: v for k, v in theirs.optimizer.state.get(other, {}).items() if isinstance(v, torch.Tensor)}
        for key, value in known.items():
            found = ours.optimizer.state[mine][key]
            torch.testing.assert_close(found.float().reshape(value.shape), value.float(), rtol=5e-4, atol=2e-5, msg=key)
