"""`PlannedTraining` against Lightning's own training."""

from pathlib import Path
from typing import Any

import pytest

from planc.errors import UsageError

torch = pytest.importorskip("torch")
try:
    import lightning.pytorch as pl
except ImportError:
    pl = pytest.importorskip("pytorch_lightning")

from planc.torch.adapters.lightning import PlannedTraining  # noqa: E402 - only with lightning

nn = torch.nn


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANC_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "plans"))


class Classifier(pl.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        )
        self.logged: list[float] = []

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        if name == "train/accuracy":
            self.logged.append(float(value))
        super().log(name, value, *args, **options)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch_idx
        logits = self.net(batch["x"])
        loss = nn.functional.cross_entropy(logits, batch["y"])
        self.log("train/accuracy", (logits.argmax(1) == batch["y"]).float().mean())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch_idx
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch["x"]), batch["y"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.02)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Seen(pl.Callback):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        self.values: list[tuple[float, ...]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        found = outputs["loss"] if isinstance(outputs, dict) else outputs
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.values.append((float(found), rate))


def loader(count: int = 22) -> Any:
    generator = torch.Generator().manual_seed(0)
    rows = [{"x": torch.randn(6, generator=generator), "y": torch.tensor(at % 3)} for at in range(count)]
    return torch.utils.data.DataLoader(rows, 8)


def fitted(folder: Path, module: Any, callbacks: list[Any], path: Any = None, **more: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"max_epochs": 2, "gradient_clip_val": 0.5, "enable_checkpointing": False, **quiet, **more}
    trainer = pl.Trainer(default_root_dir=str(folder), callbacks=callbacks, **given)
    trainer.fit(module, loader(), loader(), ckpt_path=path)
    return trainer


def test_it_trains_as_lightning_does(tmp_path: Path) -> None:
    """Clipping, a schedule by steps, logged values, a short last batch, validation."""
    usual, ours, known, seen = Classifier(), Classifier(), Seen(), Seen()
    parent = fitted(tmp_path, usual, [known])
    planned = PlannedTraining("100%", device="cpu", time_limit=1.0)
    trainer = fitted(tmp_path, ours, [planned, seen])
    assert ours.logged == usual.logged
    assert len(seen.values) == 6
    for mine, other in zip(seen.values, known.values, strict=True):
        assert mine[0] == pytest.approx(other[0], rel=1e-5)
        assert mine[1] == pytest.approx(other[1])
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(
        float(parent.callback_metrics["val_loss"]), rel=1e-4
    )
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert ours.automatic_optimization, "the module is its own again"
    assert ours.training_step.__func__ is Classifier.training_step


def test_float16_follows_lightnings_scaler(tmp_path: Path) -> None:
    """A scaler that begins so high that steps are skipped, and what follows."""

    def precision() -> Any:
        return pl.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24))

    usual, ours, known, seen = Classifier(), Classifier(), Seen(), Seen()
    fitted(tmp_path, usual, [known], plugins=[precision()])
    fitted(tmp_path, ours, [PlannedTraining("100%", device="cpu", time_limit=1.0), seen], plugins=[precision()])
    for mine, other in zip(seen.values, known.values, strict=True):
        assert mine[0] == pytest.approx(other[0], rel=4e-3)
        assert mine[1] == pytest.approx(other[1])
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=2e-2, atol=4e-3, msg=name)


def test_a_checkpoint_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def planned() -> Any:
        return PlannedTraining("100%", device="cpu", time_limit=1.0, ema_decay=0.9)

    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    whole = Classifier(0.3)
    fitted(tmp_path, whole, [planned(), saving], enable_checkpointing=True)
    again = Classifier(0.3)
    fitted(tmp_path, again, [planned()], path=tmp_path / "epoch=0.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


class Scheduled(Classifier):
    """A schedule of its own kind, told of its calls; a training step that takes no number of the batch."""

    def __init__(self, interval: str, frequency: int) -> None:
        super().__init__()
        self.interval, self.frequency = interval, frequency
        self.rates: list[float] = []
        self.scheduled = 0

    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])

    def on_validation_start(self) -> None:
        self.rates.append(self.optimizers().param_groups[0]["lr"])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.scheduled += 1
        super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        settings = {"scheduler": schedule, "interval": self.interval, "frequency": self.frequency}
        return {"optimizer": optimizer, "lr_scheduler": settings}


@pytest.mark.parametrize(("interval", "frequency"), [("step", 2), ("epoch", 1), ("epoch", 2)])
def test_schedules_go_on_when_lightnings_do(interval: str, frequency: int, tmp_path: Path) -> None:
    """Callbacks at a batch's end and a validation see the new rate; the module's own hook makes it."""
    usual, ours = Scheduled(interval, frequency), Scheduled(interval, frequency)
    known, seen = Seen(), Seen()
    fitted(tmp_path, usual, [known])
    fitted(tmp_path, ours, [seen, PlannedTraining("100%", device="cpu", time_limit=0.5)])
    assert [rate for _, rate in seen.values] == [rate for _, rate in known.values]
    assert (ours.rates, ours.scheduled) == (usual.rates, usual.scheduled)
    assert ours.scheduled > 0


@pytest.mark.parametrize("planned_first", [True, False])
def test_a_training_goes_on_with_and_without_a_plan(planned_first: bool, tmp_path: Path) -> None:
    """Steps are counted alike: after the training, in a checkpoint, and from one on."""

    def callbacks(planned: bool) -> list[Any]:
        return [PlannedTraining("100%", device="cpu", time_limit=0.5)] if planned else []

    first, second = Classifier(), Classifier()
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="last")
    trainer = fitted(tmp_path, first, [*callbacks(planned_first), saving], max_epochs=1, enable_checkpointing=True)
    assert trainer.global_step == 3
    trainer = fitted(tmp_path, second, callbacks(not planned_first), path=tmp_path / "last.ckpt")
    assert trainer.global_step == 6
    usual = Classifier()
    fitted(tmp_path, usual, [])
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_module_that_optimizes_by_hand_is_refused(tmp_path: Path) -> None:
    module = Classifier()
    module.automatic_optimization = False
    with pytest.raises(UsageError, match="Classifier optimizes by hand"):
        fitted(tmp_path, module, [PlannedTraining()], gradient_clip_val=None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches > 1"),
        ({"precision": "64-true"}, "precision '64-true'"),
    ],
)
def test_what_it_cannot_obey_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fitted(tmp_path, Classifier(), [PlannedTraining()], **more)
