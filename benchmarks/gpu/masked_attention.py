"""Steps of Hugging Face's written-out attention with padded batches: on a card beside torch in float32, and planned beside
unplanned, bit for bit.

    python benchmarks/gpu/masked_attention.py --export FOLDER               # where PyTorch and transformers are
    PYTHONPATH=SITE python3 benchmarks/gpu/masked_attention.py FOLDER       # where the card is

One line a step: which tensors differ from the unplanned step's, whether the unplanned step repeats its own bits, and the
largest error of an updated parameter as a share of its update's largest element.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

LENGTHS = ((64, 50, 30, 9), (64, 0, 30, 9))
"""Tokens of each sample that are no padding; in the second batch one has none."""

STEPS = 10
"""Steps in a row whose bits are compared."""

SIZES = {"vocab_size": 200, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}


def _modules(tokens: Any) -> dict[str, tuple[Any, Callable[..., Any], Any]]:
    """A module, its loss and its target by name; the language model's are the following tokens."""
    import torch
    from torch import nn
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    class Logits(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.inner(tokens, attention_mask=mask).logits  # type: ignore[no-any-return]

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten())

    bert = BertConfig(
        **SIZES, num_attention_heads=2, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=4, attn_implementation="eager",
    )  # fmt: skip
    llama = LlamaConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, use_cache=False,
        attn_implementation="eager",
    )  # fmt: skip
    return {
        "bert": (Logits(BertForSequenceClassification(bert)).train(), loss, torch.arange(4)),
        "llama": (Logits(LlamaForCausalLM(llama)).train(), loss, tokens.roll(-1, 1)),
    }


def export(folder: Path) -> None:
    """Write each step, its batch, and what torch makes of it in float32.

    In float64 the lowest numbers, which hide a sample whole, sum to minus infinity.
    """
    import torch

    import planc.torch
    from planc.training import Optimizer

    tokens = torch.randint(0, 200, (4, 64), generator=torch.Generator().manual_seed(5))
    for number, lengths in enumerate(LENGTHS):
        mask = (torch.arange(64)[None] < torch.tensor(lengths)[:, None]).long()
        for autocast, name in ((None, "float32"), (torch.bfloat16, "bf16")):
            torch.manual_seed(0)
            for network, (module, loss, target) in _modules(tokens).items():
                step = planc.torch.export_training_step(
                    module, loss, ((tokens, mask), target), Optimizer("sgd", 1.0), device="cuda", autocast=autocast
                )
                inputs = [i.name for i in step.graph.input if i.name in ("tokens", "mask", "labels", "target")]
                arrays = {f"feed:{n}": t.numpy() for n, t in zip(inputs, (tokens, mask, target), strict=True)}
                loss(module(tokens, mask), target).backward()
                for parameter, value in module.named_parameters():
                    if value.grad is not None:
                        arrays |= {f"was:{parameter}": value.detach().numpy(), f"grad:{parameter}": value.grad.numpy()}
                stem = folder / f"{network}.{name}.{number}"
                onnx.save(step, f"{stem}.onnx")
                np.savez(f"{stem}.npz", **arrays)
                attention = sum("AttentionGradient" in node.op_type for node in step.graph.node)
                print(stem.name, f"{attention} attentions are operators", flush=True)


def measure(file: Path) -> str:
    """One step on the card, in words."""
    from planc.compiler.job import compile_model
    from planc.compiler.options import CompileOptions
    from planc.importer.import_model import import_model
    from planc.profiling.profile import profile
    from planc.runtime.differing import differing
    from planc.runtime.measure import UnplannedStep
    from planc.runtime.step import load

    arrays = dict(np.load(file.with_suffix(".npz")))
    feeds = {name[5:]: value for name, value in arrays.items() if name.startswith("feed:")}
    imported = import_model(onnx.load(str(file)), fused=True)
    plan = compile_model(imported, profile(imported, "cuda"), CompileOptions("8MiB", time_limit_s=2.0)).plan
    with load(plan, imported) as step:
        planned = {**step(feeds), **step.state()}
        beside = [UnplannedStep(step.imported, "cuda", forms=plan.layer_forms) for _ in range(2)]
        twice = [{**unplanned(feeds), **unplanned.state} for unplanned in beside]
        planned_differs, repeats = differing(planned, twice[0]), not differing(*twice)
        for _ in range(STEPS - 1):
            planned_differs |= differing({**step(feeds)}, {**beside[0](feeds)})
        planned_differs |= differing(step.state(), beside[0].state)
    errors = {
        name[5:]: float(np.abs(arrays[f"was:{name[5:]}"] - planned[name[5:]] - grad).max() / np.abs(grad).max())
        for name, grad in arrays.items() if name.startswith("grad:") and not name.endswith("key.bias")
    }  # fmt: skip
    worst = max(errors, key=lambda name: errors[name])
    return (
        f"{file.stem}: differing {sorted(planned_differs) or 'nothing'}, unplanned repeats: {repeats}, "
        f"largest error {errors[worst]:.2%} in {worst}"
    )


def main() -> None:
    """Export, or measure what was exported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--export", action="store_true")
    options = parser.parse_args()
    if options.export:
        options.folder.mkdir(parents=True, exist_ok=True)
        export(options.folder)
        return
    for file in sorted(options.folder.glob("*.onnx")):
        print(measure(file), flush=True)


if __name__ == "__main__":
    main()
