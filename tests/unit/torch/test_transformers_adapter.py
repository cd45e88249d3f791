"""`PlannedTrainer` against the Trainer it derives from."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from planc.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import planc.torch  # noqa: E402
from planc.torch.adapters.transformers import PlannedTrainer  # noqa: E402 - only with transformers

pytestmark = pytest.mark.slow


def model(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20,
        n_positions=8,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def rows(count: int = 16) -> list[dict[str, Any]]:
    """Texts whose labels are partly ignored, more of them in later ones."""
    ids = torch.randint(20, (count, 8), generator=torch.Generator().manual_seed(1))
    labels = [row.masked_fill(torch.arange(8) < at % 5, -100) for at, row in enumerate(ids)]
    return [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]


def arguments(folder: Path, **more: Any) -> Any:
    """Plain SGD, so that a wrong scale of the gradients cannot hide."""
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.1, "max_grad_norm": 0.5}
    quiet = {"report_to": [], "save_strategy": "no", "use_cpu": True, "logging_steps": 1, "disable_tqdm": True}
    return transformers.TrainingArguments(str(folder), **{**given, **quiet, "optim": "sgd", **more})


PLANNED: dict[str, Any] = {"device": "cpu", "time_limit": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "micro-batches": {"gradient_accumulation_steps": 2},
    "a short last update": {"gradient_accumulation_steps": 3, "max_steps": 5},
    "a short last batch": {"per_device_train_batch_size": 6, "max_steps": 4},
    "a short last micro-batch": {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 3},
    "warm-up and no clipping": {"lr_scheduler_type": "cosine", "warmup_steps": 2, "max_grad_norm": 0.0},
    "bfloat16": {"bf16": True},
}


@pytest.mark.parametrize("case", CASES)
def test_the_planned_trainer_trains_like_its_parent(case: str, tmp_path: Path) -> None:
    usual, ours, more = model(), model(), CASES[case]
    parent = transformers.Trainer(usual, arguments(tmp_path / "a", **more), train_dataset=rows())
    parent.train()
    trainer = PlannedTrainer(
        ours, arguments(tmp_path / "b", **more), train_dataset=rows(), budget="100%", planned=PLANNED
    )
    trainer.train()
    bound = {"rtol": 5e-2, "atol": 2e-3} if "bf16" in more else {"rtol": 1e-4, "atol": 1e-6}
    for entry, known in zip(trainer.state.log_history, parent.state.log_history, strict=True):
        for key in {"loss", "learning_rate", "grad_norm"} & entry.keys():
            loose = {"rel": 2e-2} if "bf16" in more else {"rel": 2e-4}
            assert entry[key] == pytest.approx(known[key], **loose), key
    for (name, a), b in zip(ours.state_dict().items(), usual.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, **bound, msg=name)


def test_evaluation_and_resuming(tmp_path: Path) -> None:
    """Dropout, averaged weights and AdamW: interrupted and taken up, the same bits as in one go; evaluation is planned."""
    more = {"optim": "adamw_torch", "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
    more |= {"eval_strategy": "steps", "eval_steps": 3}
    planned = {**PLANNED, "ema_decay": 0.9}

    def trainer(folder: str) -> Any:
        given = arguments(tmp_path / folder, **more)
        return PlannedTrainer(
            model(0.3), given, train_dataset=rows(), eval_dataset=rows(4), budget="100%", planned=planned
        )

    whole = trainer("a")
    whole.train()
    again = trainer("a")
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for (name, a), b in zip(again.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    evaluated = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 2
    assert whole.evaluate()["eval_loss"] == pytest.approx(evaluated[-1], rel=1e-5), "planned and not"


def test_what_it_cannot_obey_is_refused(tmp_path: Path) -> None:
    class Own(PlannedTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    given = arguments(tmp_path)
    with pytest.raises(UsageError, match="compute_loss is not traced"):
        Own(model(), given)
    with pytest.raises(UsageError, match="compute_loss_func is not used"):
        PlannedTrainer(model(), given, compute_loss_func=lambda *_, **__: None)
    with pytest.raises(UsageError, match="label_smoothing_factor is not used"):
        PlannedTrainer(model(), arguments(tmp_path, label_smoothing_factor=0.1))


def test_micro_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    lengths = [{name: tensor[: 8 - at // 4] for name, tensor in row.items()} for at, row in enumerate(rows(8))]
    given = arguments(tmp_path, gradient_accumulation_steps=2, max_steps=1, train_sampling_strategy="sequential")
    trainer = PlannedTrainer(model(), given, train_dataset=lengths, planned=PLANNED)
    with pytest.raises(UsageError, match="micro-batches of one update differ in 'input_ids'.*pad to one length"):
        trainer.train()


def test_float16_holds_schedules_back_where_a_step_is_skipped(tmp_path: Path) -> None:
    """A scale that overflows at first; on a CPU the parent has no scaler, so its learning rates are the expected ones."""
    more = {"fp16": True, "max_steps": 8, "lr_scheduler_type": "linear", "learning_rate": 0.1}
    trainer = PlannedTrainer(
        ours := model(),
        arguments(tmp_path, **more),
        train_dataset=rows(),
        budget="100%",
        planned={**PLANNED, "loss_scale": planc.torch.DynamicScale(2.0**20, 2.0, 0.5, 100)},
    )
    start = {name: value.clone() for name, value in ours.state_dict().items()}
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    held = sum(a == b for a, b in itertools.pairwise(rates))
    assert 0 < held < 7
    assert rates == pytest.approx([0.1 - 0.0125 * max(0, n - held) for n in range(8)], rel=1e-6)
    assert trainer.accelerator.scaler is None
    assert any(not torch.equal(value, start[name]) for name, value in ours.state_dict().items())
