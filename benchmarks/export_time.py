"""How long the export of a Llama-like decoder's training step takes, with AdamW.

    python benchmarks/export_time.py                     24 layers of width 256
    python benchmarks/export_time.py --layers 48         deeper: the time is that of the layers, hardly of their width

The first export of a process, which imports what PyTorch's tracer needs, is told apart from the second. Processor time is
what one busy core needs; the clock is only that on a machine that nothing else uses.
"""

import argparse
import time

import torch
from torch import Tensor, nn

import planc.torch

HEADS, GROUPS, VOCABULARY = 8, 2, 1000


class Block(nn.Module):
    """Grouped attention with rotary positions and a gated unit, each behind an RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = width // HEADS
        self.norm, self.gate_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, GROUPS * self.head, bias=False) for _ in range(2))
        inner = 8 * width // 3
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """X [batch, tokens, width]."""
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(2, (-1, self.head)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        turned = (_turned(q, cosine, sine), _turned(k, cosine, sine))
        mixed = nn.functional.scaled_dot_product_attention(*turned, v, is_causal=True, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.gate_norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


class Decoder(nn.Module):
    """Embedding, blocks, and the logits of the next token."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.logits = nn.RMSNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, length] to logits [batch * length, vocabulary]."""
        x, head = self.embedding(tokens), self.blocks[0].head
        angles = torch.outer(torch.arange(tokens.shape[1]), 10000 ** (-torch.arange(0, head, 2) / head)).repeat(1, 2)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        return self.logits(self.norm(x)).flatten(0, 1)


def main() -> None:
    """Export twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    model = Decoder(options.layers, options.width)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(VOCABULARY, (2, options.tokens))
    for which in ("first", "second"):
        clock, busy = time.perf_counter(), time.process_time()
        step = planc.torch.export_training_step(model, nn.CrossEntropyLoss(), (tokens, tokens.flatten()), optimizer)
        clock, busy = time.perf_counter() - clock, time.process_time() - busy
        print(f"{which} export: {len(step.graph.node)} operators in {busy:.1f} s of processor time, {clock:.1f} s")


if __name__ == "__main__":
    main()
