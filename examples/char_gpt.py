"""A character-level GPT learns Python's own documentation in 40 % of its liveness peak, beside eager PyTorch.

    python examples/char_gpt.py [--steps 60] [--plot curves.svg]

bfloat16 under autocast with float32 parameters, AdamW without decay of vectors, a linear warm-up, gradients of two
micro-batches accumulated and clipped by their norm. Half-way the training is written to a file and taken up again, with
the same bits. The text ships with Python. Needs planc[torch].
"""

from functools import partial
from pydoc_data.topics import topics

import torch
from both_ways import Training, compare
from torch import nn

import planc.torch

LENGTH, WIDTH, HEADS, DEPTH, BATCH, PARTS = 64, 64, 4, 3, 8, 2
"""Characters of a sequence, features, heads, blocks, sequences of a micro-batch, and micro-batches of a step."""


class Block(nn.Module):
    """Attention and a multi-layer perceptron, each behind a norm (Radford et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.attention(self.first(x)).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class CharGPT(nn.Module):
    """Logits of the next character at every place."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(DEPTH))), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(LENGTH))
        return self.head(self.norm(self.blocks(x)))


def loss_of(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, in float32."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), following.flatten())


def start() -> Training:
    """The training from its beginning."""
    torch.manual_seed(0)
    text = "\n".join(topics.values())[:200_000]
    index = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[c] for c in text])
    windows = ids[: (len(ids) - 1) // LENGTH * LENGTH].view(-1, LENGTH)
    data = torch.utils.data.TensorDataset(windows, ids[1 : windows.numel() + 1].view(-1, LENGTH))
    model = CharGPT(len(index))
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 3e-3, (0.9, 0.95))

    def eager(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for ids, following in zip(x.split(BATCH), y.split(BATCH), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                part = loss_of(model(ids), following) / PARTS
            part.backward()
            total += part.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total

    example = tuple(tensor[:BATCH] for tensor in data.tensors)
    options = {"autocast": torch.bfloat16, "clip_norm": 1.0, "accumulate": PARTS}
    return Training(
        planc.torch.Batches(torch.utils.data.DataLoader(data, BATCH * PARTS, shuffle=True, drop_last=True)),
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, 1.0, 20),
        partial(planc.torch.compile_step, model, loss_of, optimizer, example, **options),
        eager,
    )


if __name__ == "__main__":
    compare("Python's documentation, character GPT in bf16", start, steps=60)
