"""A `CompiledStep` that several threads use: what is saved is of one moment."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planc.runtime.state import read_checkpoint

torch = pytest.importorskip("torch")

import planc.torch  # noqa: E402 - only with torch

QUICK: dict[str, Any] = {"budget": "100%", "device": "cpu", "time_limit": 0.5}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def _batch(size: int = 4) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator)


def _made(shared: Any = None) -> planc.torch.CompiledStep:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    step = planc.torch.compile_step(module, torch.nn.CrossEntropyLoss(), optimizer, _batch(), shared=shared, **QUICK)
    step.add_shape(*_batch(2))
    return step


class _Between:
    """Before and after each time that the test's thread holds a planned step, another thread trains once more, with another
    learning rate and shape of batch, unless it would have to wait. `after` has what a file holds after so many steps."""

    def __init__(self, step: planc.torch.CompiledStep, patch: pytest.MonkeyPatch) -> None:
        self._step, self._watched, self._inside = step, threading.get_ident(), False
        self.asked = self.taken = 0
        self.after: dict[int, tuple[dict[str, bytes], Any, list[float]]] = {}
        self.note()
        for planned in step._plans.values():
            guard = planned.step._guard
            patch.setattr(guard, "use", self._around(guard.use))

    def note(self) -> None:
        """Remember what the step is now."""
        step = self._step
        (rate,) = step.maker.optimizer.param_groups
        self.after[step.steps] = _bytes(step.training.state()), step.training.generators, [rate["lr"]]

    def _around(self, use: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def around(torn: bool = False) -> Iterator[None]:
            watched = threading.get_ident() == self._watched and not self._inside
            if watched:
                self._intrude()
            with use(torn):
                self._inside = self._inside or watched
                try:
                    yield
                finally:
                    self._inside = self._inside and not watched
            if watched:
                self._intrude()

        return around

    def _intrude(self) -> None:
        self.asked += 1
        thread = threading.Thread(target=self._train)
        thread.start()
        thread.join()

    def _train(self) -> None:
        lock = getattr(self._step, "_lock", None)
        if lock is not None and not lock.acquire(blocking=False):
            return
        try:
            (group,) = self._step.maker.optimizer.param_groups
            group["lr"] /= 2
            self._step(*_batch(4 if self.taken % 2 else 2))
            self.taken += 1
            self.note()
        finally:
            if lock is not None:
                lock.release()


def _bytes(state: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in state.items()}


@pytest.mark.parametrize("together", [False, True])
def test_a_file_is_of_one_moment(together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _made(planc.torch.Shared() if together else None) as step:
        step(*_batch())
        other = _Between(step, monkeypatch)
        step.save(tmp_path / "c.safetensors")
        assert other.asked > 0
        arrays, generators = read_checkpoint(tmp_path / "c.safetensors")
        notes = json.loads(arrays["notes"].tobytes())
        state = {n.removeprefix("state/"): v for n, v in arrays.items() if n.startswith("state/")}
        assert (_bytes(state), generators, notes["hyperparameters"]["lr"]) == other.after[notes["steps"]]


def test_module_and_step_count_are_brought_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with _made() as step:
        step(*_batch())
        other = _Between(step, monkeypatch)
        step.sync()
        assert other.asked > 0
        held = {name: tensor.numpy().tobytes() for name, tensor in step.maker.owner.state_dict().items()}
        state = other.after[step._synced_at][0]
        assert held == {name: state[name] for name in held}


def test_other_threads_train_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planc.torch import step as module

    with _made() as step:
        write = module.write_training

        def writing(*arguments: Any) -> None:
            thread = threading.Thread(target=step, args=_batch())
            thread.start()
            thread.join()
            write(*arguments)

        monkeypatch.setattr(module, "write_training", writing)
        step.save(tmp_path / "c.safetensors")
        assert step.steps == 1
        step.load(tmp_path / "c.safetensors")
        assert step.steps == 0


def test_a_step_that_an_interrupt_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with _made() as step:
        executor = step.training._executor
        run = executor.run_step

        def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)
            run()

        monkeypatch.setattr(executor, "run_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(*_batch())
        assert step.steps == step.training.steps == 1
