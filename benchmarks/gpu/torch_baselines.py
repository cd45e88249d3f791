"""What a PyTorch user would do instead, at which time and memory: the networks of `card_networks.py` in eager mode,
compiled, compiled within a third of the activations, checkpointed by block, and with saved tensors moved to
page-locked memory. TF32 everywhere, as planc's runs. Each is measured in a process of
its own, so that none counts what another left.

    python3 benchmarks/gpu/torch_baselines.py --out FOLDER [r50-32 r50-64 gpt2]
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as functional
import torchvision
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

MIB = 1 << 20
WARM, TIMED = 4, 11


class Blocks(torch.nn.Module):
    """Runs a list of modules, each checkpointed where asked."""

    def __init__(self, blocks: Iterator[torch.nn.Module], checkpointed: bool) -> None:
        super().__init__()
        self.blocks, self.checkpointed = torch.nn.ModuleList(blocks), checkpointed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return x


def resnet50(batch: int, checkpointed: bool) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, int]:
    """torchvision's ResNet-50 on random images."""
    net = torchvision.models.resnet50()
    stem = torch.nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    blocks = [stem, *net.layer1, *net.layer2, *net.layer3, *net.layer4]
    head = torch.nn.Sequential(net.avgpool, torch.nn.Flatten(), net.fc)
    model = torch.nn.Sequential(Blocks(iter(blocks), checkpointed), head)
    return model, torch.randn(batch, 3, 224, 224, device="cuda"), torch.randint(0, 1000, (batch,), device="cuda"), 1000


def gpt2(batch: int, checkpointed: bool) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor, int]:
    """Hugging Face's GPT-2 small without dropout, 1,024 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, use_cache=False)
    net = GPT2LMHeadModel(config)
    if checkpointed:
        net.gradient_checkpointing_enable({"use_reentrant": False})

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.net(ids).logits

    ids = torch.randint(0, 50257, (batch, 1024), device="cuda")
    return Logits(), ids, torch.randint(0, 50257, (batch, 1024), device="cuda"), 50257


CASES: dict[str, tuple[Callable[[int, bool], Any], int, str]] = {
    "r50-32": (resnet50, 32, "sgd"),
    "r50-64": (resnet50, 64, "sgd"),
    "gpt2": (gpt2, 8, "adamw"),
}
VARIANTS = ("eager", "compile", "budget", "checkpoint", "offload")
ACTIVATION_BUDGET = 0.33  # of what `torch.compile` saves, for the variant `budget`


def measure(case: str, variant: str) -> dict[str, Any]:
    """Median time of a step by CUDA events, and the peak of allocated and reserved memory."""
    build, batch, optimizer_name = CASES[case]
    torch.manual_seed(0)
    model, x, y, classes = build(batch, variant == "checkpoint")
    model = model.cuda().train()
    parameters = list(model.parameters())
    optimizer = (
        torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        if optimizer_name == "sgd"
        else torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    )
    torch._dynamo.reset()
    torch._functorch.config.activation_memory_budget = ACTIVATION_BUDGET if variant == "budget" else 1.0
    forward = torch.compile(model) if variant in ("compile", "budget") else model

    def saved() -> AbstractContextManager[object]:
        return save_on_cpu(pin_memory=True) if variant == "offload" else nullcontext()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with saved():
            loss = functional.cross_entropy(forward(x).reshape(-1, classes), y.reshape(-1))
        loss.backward()
        optimizer.step()

    for _ in range(WARM):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(3 if variant == "offload" else TIMED):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {
        "ms": round(statistics.median(times), 2),
        "allocated_MiB": torch.cuda.max_memory_allocated() // MIB,
        "reserved_MiB": torch.cuda.max_memory_reserved() // MIB,
    }


def measure_alone(case: str, variant: str) -> dict[str, Any]:
    """What `measure` returns in a new process, or why it failed."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", case, variant], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"FAILED": done.stderr[-300:]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--one", nargs=2, metavar=("CASE", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if options.one:
        print(json.dumps(measure(*options.one)))
        sys.exit()
    results: dict[str, Any] = {}
    for case in options.cases:
        for variant in options.variants:
            results[f"{case} {variant}"] = measure_alone(case, variant)
            print(case, variant, json.dumps(results[f"{case} {variant}"]), flush=True)
            (options.out / "torch.json").write_text(json.dumps(results, indent=1))
