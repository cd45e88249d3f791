"""`PlannedTrainer` against the Trainer it derives from."""

from pathlib import Path
from typing import Any

import pytest

from planc.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from planc.torch.adapters.transformers import PlannedTrainer  # noqa: E402 - only with transformers

pytestmark = pytest.mark.slow


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


def rows() -> list[dict[str, Any]]:
    ids = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


def arguments(folder: Path, **more: Any) -> Any:
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01, "max_grad_norm": 0.5}
    quiet = {"report_to": [], "save_strategy": "no", "use_cpu": True, "logging_steps": 1, "disable_tqdm": True}
    return transformers.TrainingArguments(str(folder), **{**given, **quiet, **more})


def test_the_planned_trainer_trains_like_its_parent(tmp_path: Path) -> None:
    usual, ours = model(), model()
    transformers.Trainer(usual, arguments(tmp_path / "a"), train_dataset=rows()).train()
    planned = {"device": "cpu", "time_limit": 1.0}
    trainer = PlannedTrainer(ours, arguments(tmp_path / "b"), train_dataset=rows(), budget="60%", planned=planned)
    trainer.train()
    assert trainer.state.global_step == 4
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == 4
    assert min(norms) > 0
    for (name, a), b in zip(ours.state_dict().items(), usual.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=name)


def test_what_it_cannot_obey_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gradient_accumulation_steps"):
        PlannedTrainer(model(), arguments(tmp_path, gradient_accumulation_steps=2))
