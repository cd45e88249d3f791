"""A mixture of experts of transformers, whose grouped products are operators of its own while a step is traced."""

from typing import Any

import numpy as np
import pytest
from support.training_steps import run_steps, state_pairs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
export = pytest.importorskip("planc.torch").export_training_step


def test_gradients_of_experts_match_autograd() -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, max_position_embeddings=8,
    )  # fmt: skip
    module = transformers.MixtralForCausalLM(config).train()
    batch = {"input_ids": torch.randint(3, 32, (2, 5))}

    def loss(out: Any) -> Any:
        return out.logits.square().mean() * 100

    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    model = export(module, loss, (batch, None), optimizer)
    made = run_steps(model, {"input_ids": batch["input_ids"].numpy()})[0]
    loss(module(**batch)).backward()  # in float32: torch's own grouped product takes no float64
    checked = 0
    for name, parameter in module.named_parameters():
        following = state_pairs(model).get(f"{name}.momentum")
        if following is not None and parameter.grad is not None:
            expected = parameter.grad.numpy()
            scale = max(1e-3, float(np.abs(expected).max()))
            np.testing.assert_allclose(made[following], expected, atol=1e-4 * scale, err_msg=name)
            checked += "experts" in name
    assert checked >= 2
