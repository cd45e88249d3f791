"""Bytes that wait from the forward to the backward phase, per layer kind: planc's training graphs against torch.

    PYTHONPATH=tests python benchmarks/saved_bytes.py [NETWORK ...]

Prints the table of docs/training.md; how bytes are counted is said in tests/support/saved_bytes.py.
"""

import sys

from support.saved_bytes import planc_saves, torch_saves
from support.torch_reference import without_dropout
from support.training_steps import random_batch

from planc.training import Optimizer, differentiate
from planc.zoo import ZooOptions, build_forward

NETWORKS = {
    "resnet18": ZooOptions(batch=8, image=112),
    "resnet50": ZooOptions(batch=4, image=112),
    "vgg16": ZooOptions(batch=4, image=64, width=16),
    "alexnet": ZooOptions(batch=4, image=99, width=32),
    "googlenet": ZooOptions(batch=4, image=112),
    "densenet121": ZooOptions(batch=4, image=64),
    "mobilenet_v2": ZooOptions(batch=4, image=64),
    "squeezenet": ZooOptions(batch=4, image=112),
    "shufflenet": ZooOptions(batch=4, image=64),
    "unet": ZooOptions(batch=2, image=64, width=16),
    "unet_bilinear": ZooOptions(batch=2, image=64, width=16),
    "vit_b16": ZooOptions(batch=2, image=64, depth=2, classes=1000),
    "bert_base": ZooOptions(batch=2, seq=64, depth=2, classes=1000),
    "gpt2": ZooOptions(batch=2, seq=64, depth=2, width=256, classes=1000),
}


def compare(name: str) -> list[str]:
    """Print one network's rows; the kinds of layer that save more than torch's."""
    model = without_dropout(build_forward(name, NETWORKS[name]).model)
    step = differentiate(model, loss="cross-entropy", optimizer=Optimizer("sgd"))
    mine, torchs = planc_saves(step), torch_saves(model, random_batch(step))
    for kind in sorted(set(mine.by_kind) | set(torchs.by_kind)):
        print(row(name, kind, mine.bytes_of(kind), torchs.bytes_of(kind)))
    print(row(name, "**all**", mine.total, torchs.total))
    return [f"{name} {kind}" for kind in mine.more_than(torchs)] + ([name] if mine.total > torchs.total else [])


def row(name: str, kind: str, mine: int, torchs: int) -> str:
    return f"| {name} | {kind} | {mine / 2**20:.2f} | {torchs / 2**20:.2f} |"


if __name__ == "__main__":
    print("| network | layers | planc MiB | torch MiB |")
    print("|---|---|---:|---:|")
    worse = [found for name in sys.argv[1:] or NETWORKS for found in compare(name)]
    print("\nmore than torch:", ", ".join(worse) or "none")
