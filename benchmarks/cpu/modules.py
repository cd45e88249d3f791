"""The PyTorch modules of the comparison on the CPU, each with a batch and its optimizer; torchvision and transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    """One training step: what is called, on what, and how it is updated."""

    module: nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    adam: bool = False

    def optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.module.parameters())
        if self.adam:
            return torch.optim.AdamW(parameters, lr=1e-4)
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def eager_step(self) -> Callable[[], None]:
        """PyTorch's step, with an optimizer of its own."""
        optimizer = self.optimizer()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.loss(self.module(self.inputs), self.targets).backward()
            optimizer.step()

        return step


def _images(module: nn.Module, batch: int, side: int) -> Case:
    x, y = torch.randn(batch, 3, side, side), torch.randint(0, 1000, (batch,))
    return Case(module.train(), functional.cross_entropy, x, y)


def _vision(name: str, batch: int, side: int) -> Case:
    import torchvision

    return _images(torchvision.models.get_model(name, weights=None), batch, side)


class _Logits(nn.Module):
    """The logits alone of a transformers model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens).logits


def _token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def _gpt2(batch: int, length: int) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=1000, n_positions=length, n_embd=256, n_layer=4, n_head=4, use_cache=False,
        bos_token_id=0, eos_token_id=0,        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    tokens = torch.randint(0, 1000, (batch, length))
    return Case(_Logits(GPT2LMHeadModel(config)).train(), _token_loss, tokens, tokens.roll(-1, 1), adam=True)


def _bert(batch: int, length: int) -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=length, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    module = _Logits(BertForSequenceClassification(config)).train()
    return Case(
        module, functional.cross_entropy, torch.randint(0, 1000, (batch, length)), torch.randint(0, 2, (batch,)), True
    )


class _Stage(nn.Sequential):
    def __init__(self, inside: int, outside: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class _UNet(nn.Module):
    """Ronneberger et al. 2015 with padding and batch-norm, of `width` channels at full size."""

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(_Stage(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.join = nn.ModuleList(_Stage(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, stage in enumerate(self.down):
            x = stage(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.head(x)


def _unet(batch: int, side: int) -> Case:
    labels = torch.randint(0, 4, (batch, side, side))
    return Case(_UNet(16, 3, 4).train(), functional.cross_entropy, torch.randn(batch, 3, side, side), labels)


CASES: dict[str, Callable[[], Case]] = {
    "resnet18": lambda: _vision("resnet18", 32, 112),
    "resnet50": lambda: _vision("resnet50", 16, 112),
    "mobilenet_v2": lambda: _vision("mobilenet_v2", 16, 112),
    "unet": lambda: _unet(8, 128),
    "bert": lambda: _bert(16, 128),
    "gpt2": lambda: _gpt2(16, 128),
}
