"""`python -m support.rank_torch FOLDER [shard]`: a module trained by `compile_step`, as one of the ranks or alone.

Alone, it accumulates two micro-batches. Prints hashes of module and state behind every step, and saves in between: the
second half of the steps goes on from the file.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from planc.runtime.ranks.group import place
from planc.torch import compile_step
from support.rank_worker import state_hash

STEPS, BATCH = 4, 6


class Small(nn.Module):  # type: ignore[misc]
    """A convolution, a norm with running statistics, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.last(self.drop(y))  # type: ignore[no-any-return]


def batches(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(BATCH, 3, 8, 8, generator=generator), torch.randint(4, (BATCH,), generator=generator)


def compiled(ranks: int, shard: bool = False) -> Any:
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    example, more = batches(0, 0), {"shard": shard} if ranks > 1 else {"accumulate": 2}
    return compile_step(model, nn.CrossEntropyLoss(), optimizer, example, budget=1.0, time_limit=0.5, **more)


def trained(folder: Path, shard: bool) -> list[list[str]]:
    where = place()
    rank, ranks = (0, 1) if where is None else (where.rank, where.size)
    found = []
    step = compiled(ranks, shard)
    for index in range(STEPS):
        if index == STEPS // 2:
            step.save(folder / f"{ranks}.safetensors")
            step.load(folder / f"{ranks}.safetensors")
        x, y = (
            batches(index, rank)
            if ranks > 1
            else map(torch.cat, zip(batches(index, 0), batches(index, 1), strict=True))
        )
        step(x, y)
        step.sync()
        module = {name: value.numpy() for name, value in step.maker.model.state_dict().items()}
        found.append([state_hash(module), state_hash(step.training.state())])
    step.close()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(trained(Path(sys.argv[1]), "shard" in sys.argv)))
