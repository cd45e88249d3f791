"""Bytes that wait from the forward to the backward phase, per layer kind: planc's training graphs against torch.

    PYTHONPATH=tests python benchmarks/saved_bytes.py [NETWORK ...]

How they are counted is said in tests/support/saved_bytes.py.
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


def compare(name: str) -> bool:
    model = without_dropout(build_forward(name, NETWORKS[name]).model)
    step = differentiate(model, loss="cross-entropy", optimizer=Optimizer("sgd"))
    mine, torchs = planc_saves(step), torch_saves(model, random_batch(step))
    print(f"{name}: planc {sum(mine.values()) / 2**20:.2f} MiB, torch {sum(torchs.values()) / 2**20:.2f} MiB")
    for kind in sorted(set(mine) | set(torchs)):
        print(f"    {kind:22} {mine[kind] / 2**20:9.3f} {torchs[kind] / 2**20:9.3f}")
    return sum(mine.values()) <= sum(torchs.values())


if __name__ == "__main__":
    worse = [name for name in sys.argv[1:] or NETWORKS if not compare(name)]
    print("more than torch:", ", ".join(worse) or "none")
