"""The second call with the same step profiles and solves nothing; what lies in the cache wrongly is made anew."""

from pathlib import Path
from typing import Any

import pytest

from planc.compiler import plan_cache
from planc.errors import PlancWarning
from planc.profiling import cache

torch = pytest.importorskip("torch")
nn = torch.nn

import planc.torch  # noqa: E402 - only with torch


class Work:
    """Counts what is profiled and solved."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.profiled = self.solved = 0
        profile, compile_within = cache.profile, plan_cache.compile_within

        def profiling(*args: Any, **options: Any) -> Any:
            self.profiled += 1
            return profile(*args, **options)

        def solving(*args: Any) -> Any:
            self.solved += 1
            return compile_within(*args)

        patch.setattr(cache, "profile", profiling)
        patch.setattr(plan_cache, "compile_within", solving)

    def take(self) -> tuple[int, int]:
        found = self.profiled, self.solved
        self.profiled = self.solved = 0
        return found


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path))
    return Work(monkeypatch)


def run(width: int = 8, batch: int = 8, **options: Any) -> float:
    """Loss of the second step of a fresh module."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))
    kind = options.pop("optimizer", torch.optim.SGD)
    optimizer = kind(module.parameters(), options.pop("lr", 0.1))
    data = torch.randn(batch, 6), torch.arange(batch) % 3
    given = {"budget": "100%", "device": "cpu", "time_limit": 1.0, **options}
    with planc.torch.compile_step(module, nn.CrossEntropyLoss(), optimizer, data, **given) as step:
        step(*data)
        return float(step(*data))


def test_the_same_step_is_loaded_and_another_is_not(work: Work) -> None:
    first = run()
    assert work.take() == (1, 1)
    assert run() == first
    assert work.take() == (0, 0)
    assert run(lr=0.2) != first, "values that are inputs change neither the plan nor the costs"
    assert work.take() == (0, 0)
    run(budget="99%")
    assert work.take() == (0, 1)
    for other in ({"width": 9}, {"batch": 9}, {"optimizer": torch.optim.Adam}, {"clip_norm": 1.0}):
        run(**other)
        assert work.take() == (1, 1), other


def _truncated(file: Path, _: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _foreign(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def _invalid(file: Path, _: Path) -> None:
    text = file.read_text()
    at = text.index('"slab_bytes":') + len('"slab_bytes":')
    file.write_text(text[:at] + "1" + text[at:].lstrip("0123456789"))


def _folder(file: Path, _: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_truncated, _foreign, _invalid, _folder])
def test_what_lies_there_wrongly_is_made_anew_with_a_message(work: Work, tmp_path: Path, damage: Any) -> None:
    first = run()
    (file,) = (tmp_path / "plans").iterdir()
    run(budget="99%")
    other = next(path for path in (tmp_path / "plans").iterdir() if path != file)
    damage(file, other)
    work.take()
    with pytest.warns(PlancWarning, match="a cached plan is not used and made anew"):
        assert run() == first
    assert work.take() == (0, 1)


def test_a_cache_that_cannot_be_written_costs_only_time(work: Work, tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("in the way")
    with pytest.warns(PlancWarning, match="the plan is not kept"):
        run()
    assert work.take() == (1, 1)
